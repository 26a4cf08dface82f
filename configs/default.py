"""Every knob at its default; flaxcifar/config/defaults.py says what each one means."""

from flaxcifar.config import default_config


def get_config():
    return default_config()
