"""Checks of a config against its knobs."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from flaxcifar.config.defaults import default_config, plain
from flaxcifar.config.knobs import KNOBS, NAMED, Rule, is_storable, same_type, type_words
from flaxcifar.errors import UserError, suggestion


def check(config: Mapping | ConfigDict) -> None:
    """Raises UserError that names the dotted key unless every key exists and every value is valid.

    The keywords of models, optimizers, schedules and augmentations are checked by their registries.
    """
    values = plain(config)
    _check_section("config", values, plain(default_config()))
    _check_combinations(values)


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
    if not is_storable(value):
        raise UserError(
            f"{name} is {value!r}; only finite numbers, strings, tuples and dicts can be stored"
        )
    rule = KNOBS[key].rule
    if rule and rule.each:
        for index, item in enumerate(value):
            _check_rule(f"{name}[{index}]", item, rule)
    elif rule:
        _check_rule(name, value, rule)


def _check_rule(name: str, value: Any, rule: Rule) -> None:
    if rule.holds(value):
        return
    if rule.choices:
        raise UserError(
            f"{name} is {value!r}{suggestion(value, rule.choices)} "
            f"(there are: {', '.join(rule.choices)})"
        )
    raise UserError(f"{name} is {value!r}; it must be {rule.words}")


def _check_combinations(values: dict) -> None:
    """Raises UserError for values that are valid alone but not together."""
    if values["ema_decay"] and values["lookahead"]["every_steps"]:
        raise UserError(
            "config.ema_decay and config.lookahead.every_steps both average the parameters: set "
            "one of them to 0"
        )
    stopping = values["early_stopping"]
    watches = stopping["patience"] or values["schedule"]["name"] == "reduce_on_plateau"
    if watches and not values["data"]["validation_percent"]:
        raise UserError(
            "config.data.validation_percent is 0, but early stopping and reduce_on_plateau need a "
            "validation split: hold out a part of the training split"
        )
    better = "min" if stopping["metric"] == "loss" else "max"
    if stopping["mode"] != better:
        raise UserError(
            f"config.early_stopping.mode is {stopping['mode']!r}, but the best "
            f"{stopping['metric']} is its {better}imum: set it to {better!r}"
        )


def _hint(key: str, default: dict) -> str:
    """Returns a suggestion: the same key in another section, or a similar one in this."""
    for name, knob in KNOBS.items():
        section, _, leaf = name.rpartition(".")
        if isinstance(knob.default, dict) and key in knob.default:
            section, leaf = name, key
        if section and leaf == key != "name":
            return f"; did you mean config.{section}.{key}?"
    return suggestion(key, default)
