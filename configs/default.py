"""Every knob at its default.

    flaxcifar train --config default

docs/reference/config.md lists the knobs. flaxcifar/config/knobs.py declares them.
"""

from flaxcifar.config import default_config


def get_config():
    return default_config()
