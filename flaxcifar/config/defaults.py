"""Builds the default config; converts configs to plain dicts and back."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from flaxcifar.config.knobs import KNOBS, NAMED


def default_config() -> ConfigDict:
    """Returns a config with every knob at its default.

    A value `dict(name=..., **kwargs)` names a registered function and its keywords. Durations in
    such a dict end in `_steps`, `_epochs` or `_percent` (of the whole run). The config is locked:
    assigning to an unknown key raises AttributeError.
    """
    config: dict[str, Any] = {}
    for key, knob in KNOBS.items():
        section, _, leaf = key.rpartition(".")
        (config.setdefault(section, {}) if section else config)[leaf] = knob.default
    return _locked(config)


def to_json(config: Mapping | ConfigDict) -> dict:
    """Returns the config as a plain dict, for `json.dump`."""
    return plain(config)


def from_json(data: Mapping) -> ConfigDict:
    """Restores the locked config from the dict that `to_json` returned. Lists become tuples.

    Keys that the dict lacks, because it is older, have their defaults.
    """
    return _locked(filled(plain(data)))


def filled(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a plain config with missing keys at their defaults, and integers of float keys."""
    return _filled(config, plain(default_config()))


def _filled(config: Any, default: Any) -> Any:
    if isinstance(config, dict) and isinstance(default, dict):
        named = config.keys() & set(NAMED)
        return default | {
            key: value if key in named else _filled(value, default.get(key))
            for key, value in config.items()
        }
    return float(config) if isinstance(default, float) and type(config) is int else config


def _locked(values: dict[str, Any]) -> ConfigDict:
    config = ConfigDict(values).lock()
    for key in NAMED:  # Their keywords depend on the name.
        if isinstance(config.get(key), ConfigDict):
            config[key].unlock()
    return config


def plain(value: Any) -> Any:
    """Returns nested configs and mappings as dicts, and lists as tuples."""
    if isinstance(value, Mapping | ConfigDict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)
    return value
