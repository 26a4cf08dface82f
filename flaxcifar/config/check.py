"""The checks of a config, and what they say."""

import math
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from flaxcifar.config.defaults import NAMED, default_config, plain
from flaxcifar.errors import UserError, suggestion

# Which values of the right type are good: the choices, or a test and its words.
_RULES = {
    "seed": (lambda v: 0 <= v < 2**31, "from 0 to 2147483647"),
    "precision": ("float32", "bfloat16"),
    "data.name": (lambda v: v != "", "the name of a dataset"),
    "data.image_size": (lambda v: 1 <= v <= 4096, "from 1 to 4096"),
    "data.validation_percent": (lambda v: 0 <= v <= 50, "from 0 to 50"),
    "data.normalization": ("channel", "scalar", "unit"),
    "data.pipeline": ("host", "resident"),
    "data.memory_gb": (lambda v: v >= 0, "0 (half of the memory) or more"),
    "batch_size": (lambda v: v >= 1, "at least 1"),
    "eval_batch_size": (lambda v: v >= 1, "at least 1"),
    "total_epochs": (lambda v: v >= 1, "at least 1"),
    "total_steps": (lambda v: v >= 0, "0 (total_epochs counts) or more"),
    "steps_per_dispatch": (lambda v: v >= 0, "0 (automatic) or more"),
    "ops.convolution": ("auto", "onednn", "jax", "xla"),
    "gradient_clip": (lambda v: v >= 0, "0 (none) or more"),
    "accumulation_steps": (lambda v: v >= 1, "at least 1"),
    "ema_decay": (lambda v: 0 <= v < 1, "at least 0 (none) and below 1"),
    "label_smoothing": (lambda v: 0 <= v < 1, "at least 0 (none) and below 1"),
    "l2.coefficient": (lambda v: v >= 0, "0 (none) or more"),
    "l2.pattern": (lambda v: _is_pattern(v), "a regular expression"),
    "early_stopping.patience": (lambda v: v >= 0, "0 (never) or more"),
    "early_stopping.metric": ("loss", "accuracy", "top5_accuracy"),
    "early_stopping.mode": ("min", "max"),
    "selection.keep_percent": (lambda v: 0 < v <= 100, "above 0 and at most 100"),
    "selection.every_steps": (lambda v: v >= 1, "at least 1"),
    "lookahead.every_steps": (lambda v: v >= 0, "0 (none) or more"),
    "lookahead.decay": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "lookahead.power": (lambda v: v >= 0, "0 or more"),
    "test_views": ("none", "mirror", "mirror_shift"),
    "early_stopping.min_delta": (lambda v: v >= 0, "0 or more"),
    "checkpoint.every_epochs": (lambda v: v >= 0, "0 (never) or more"),
    "checkpoint.every_minutes": (lambda v: v >= 0, "0 (never) or more"),
    "checkpoint.every_steps": (lambda v: v >= 0, "0 (never) or more"),
    "on_nonfinite": ("stop", "rollback"),
}


def check(config: Mapping | ConfigDict) -> None:
    """Raises UserError, naming the dotted key, unless every key exists and every value fits.

    Keywords of models, optimizers, schedules and augmentations are their registries' to check.
    """
    values = plain(config)
    _check_section("config", values, plain(default_config()))
    for index, spec in enumerate(values["augment"]):
        if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
            raise UserError(f"config.augment[{index}] is {spec!r}, not dict(name=..., **kwargs)")
    for index, pair in enumerate(values["param_groups"]):
        if not _is_param_group(pair):
            raise UserError(
                f"config.param_groups[{index}] is {pair!r}, not a pair of a regular expression and "
                'either the scale of the learning rate (0 or more), "frozen", or '
                "dict(name=..., **kwargs) of an optimizer"
            )
    sizes = values["progressive_sizes"]
    if not _are_progressive(sizes):
        raise UserError(
            f"config.progressive_sizes is {sizes!r}, not pairs of a percent of the run, rising "
            "from 0 to 100, and a size of images"
        )
    if values["ema_decay"] and values["lookahead"]["every_steps"]:
        raise UserError(
            "config.ema_decay and config.lookahead.every_steps both average the parameters: set "
            "one of them to 0"
        )
    stopping = values["early_stopping"]
    if not values["data"]["validation_percent"]:
        if stopping["patience"] or values["schedule"]["name"] == "reduce_on_plateau":
            raise UserError(
                "config.data.validation_percent is 0, but early stopping and reduce_on_plateau "
                "watch a validation split: hold some of the training split out"
            )
    better = "min" if stopping["metric"] == "loss" else "max"
    if stopping["mode"] != better:
        raise UserError(
            f"config.early_stopping.mode is {stopping['mode']!r}, but the best "
            f"{stopping['metric']} is its {better}imum: set it to {better!r}"
        )


def _check_section(name: str, section: dict, default: dict) -> None:
    for key, value in section.items():
        if key not in default:
            raise UserError(
                f"unknown key {name}.{key}{_hint(key, default)} (there are: {', '.join(default)})"
            )
        _check_value(f"{name}.{key}", value, default[key])
    for key in default:
        if key not in section:
            raise UserError(f"{name}.{key} is missing")


def _check_value(name: str, value: Any, default: Any) -> None:
    key = name.removeprefix("config.")
    if not same_type(value, default):
        advice = f"; did you mean {name}.name?" if key in NAMED and type(value) is str else ""
        raise UserError(f"{name} is {value!r}, not {type_words(default)}{advice}")
    if key in NAMED:
        if not isinstance(value.get("name"), str):
            raise UserError(f"{name} needs a name: dict(name=..., **kwargs)")
    elif isinstance(value, dict):
        return _check_section(name, value, default)
    if not _is_plain(value):
        raise UserError(
            f"{name} is {value!r}: only finite numbers, strings, tuples and dicts can be kept"
        )
    if key in _RULES:
        rule = _RULES[key]
        if callable(rule[0]) and not rule[0](value):
            raise UserError(f"{name} is {value!r}; it must be {rule[1]}")
        if not callable(rule[0]) and value not in rule:
            raise UserError(
                f"{name} is {value!r}{suggestion(value, rule)} (there are: {', '.join(rule)})"
            )


def _hint(key: str, default: dict) -> str:
    """Returns a suggestion: a key of that very name in another section, or a similar one here."""
    for section, knobs in plain(default_config()).items():
        if isinstance(knobs, dict) and key in knobs and key not in ("name",):
            return f"; did you mean config.{section}.{key}?"
    return suggestion(key, default)


def same_type(value: Any, default: Any) -> bool:
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, type(default)) and isinstance(value, bool) == isinstance(default, bool)


def type_words(value: Any) -> str:
    """Returns what values of the type of `value` are called, with an article."""
    words = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
    words |= {tuple: "a tuple or list", dict: "a section of several keys"}
    return words[type(value)]


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold `value`, and give it back as it was."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str)


def _is_pattern(text: Any) -> bool:
    try:
        re.compile(text)
    except (re.error, TypeError):
        return False
    return True


def _is_param_group(pair: Any) -> bool:
    if not isinstance(pair, tuple) or len(pair) != 2 or not _is_pattern(pair[0]):
        return False
    group = pair[1]
    if isinstance(group, dict):
        return isinstance(group.get("name"), str) and _is_named(group.get("schedule", {"name": ""}))
    return group == "frozen" or (same_type(group, 0.0) and group >= 0)


def _is_named(spec: Any) -> bool:
    return isinstance(spec, dict) and isinstance(spec.get("name"), str)


def _are_progressive(sizes: tuple) -> bool:
    pairs = all(isinstance(pair, tuple) and len(pair) == 2 for pair in sizes)
    if not pairs or not all(same_type(x, 0.0) and same_type(size, 0) for x, size in sizes):
        return False
    ends = [percent for percent, _ in sizes]
    rising = ends == sorted(set(ends)) and all(0 < percent <= 100 for percent in ends)
    return rising and all(1 <= size <= 4096 for _, size in sizes)
