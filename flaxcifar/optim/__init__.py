"""Optimizers, parameter groups, learning-rate schedules and weight averaging.

A new file in this folder that registers an optimizer or a schedule needs no other edit.
"""

from flaxcifar.registry import Registry

OPTIMIZERS = Registry("optimizer", package=__name__)
SCHEDULES = Registry("schedule", package=__name__)
