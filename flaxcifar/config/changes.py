"""Compares configs by dotted key."""

from collections.abc import Collection, Mapping
from typing import Any

from flaxcifar.config.defaults import filled, to_json


def config_changes(saved: Mapping[str, Any], config: Any) -> dict[str, tuple[Any, Any]]:
    """Returns {dotted key: (saved value, new value)} of the keys that differ.

    Keys that an older `saved` lacks have their defaults.
    """
    old, new = flatten(filled(to_json(saved))), flatten(to_json(config))
    keys = sorted({*old, *new})
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def flatten(
    section: Mapping[str, Any], prefix: str = "", keep: Collection[str] = ()
) -> dict[str, Any]:
    """Flattens nested dicts into {dotted key: value}. Dicts at the keys in `keep` stay dicts."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, Mapping) and prefix + key not in keep:
            flat |= flatten(value, f"{prefix}{key}.", keep)
        else:
            flat[prefix + key] = value
    return flat
