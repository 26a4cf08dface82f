"""Configs: the knobs and their defaults, loading, and validation.

Nothing in this package imports JAX or TensorFlow, so that a mistake in a config is reported at
once.
"""

from flaxcifar.config.check import check
from flaxcifar.config.defaults import default_config, from_json, plain, to_json
from flaxcifar.config.durations import resolve_durations
from flaxcifar.config.load import load

__all__ = ["check", "default_config", "from_json", "load", "plain", "resolve_durations", "to_json"]
