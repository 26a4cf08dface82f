"""Validates configs against the knobs."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from flaxcifar.config.defaults import default_config, plain
from flaxcifar.config.knobs import KNOBS, NAMED, is_storable, metric_name
from flaxcifar.errors import UserError, suggestion
from flaxcifar.rules import Rule, describe, fits


def check(config: Mapping | ConfigDict) -> None:
    """Checks that every key exists and every value is valid.

    The keywords of models, optimizers, schedules and augmentations are checked by their registries.

    Raises:
      UserError: names the dotted key, what it must be, and what it is.
    """
    values = plain(config)
    _check_section("", values, plain(default_config()))
    _check_combinations(values)


def _check_section(prefix: str, section: dict, default: dict) -> None:
    for key, value in section.items():
        if key not in default:
            raise UserError(
                f"{prefix}{key} is not a config key{_hint(key, default)} "
                f"(keys here: {', '.join(default)})"
            )
        _check_value(prefix + key, value, default[key])
    for key in default:
        if key not in section:
            raise UserError(f"{prefix}{key} is missing")


def _check_value(key: str, value: Any, default: Any) -> None:
    if not fits(value, type(default)):
        advice = f"; did you mean {key}.name?" if key in NAMED and type(value) is str else ""
        raise UserError(f"{key} must be {describe(type(default))}, got {value!r}{advice}")
    if key in NAMED:
        if not isinstance(value.get("name"), str):
            raise UserError(f"{key} needs a name: dict(name=..., **kwargs)")
    elif isinstance(value, dict):
        return _check_section(f"{key}.", value, default)
    if not is_storable(value):
        raise UserError(
            f"{key} may hold only finite numbers, strings, tuples and dicts, got {value!r}"
        )
    rule = KNOBS[key].rule
    if rule and rule.each:
        for index, item in enumerate(value):
            _check_rule(f"{key}[{index}]", item, rule)
    elif rule:
        _check_rule(key, value, rule)


def _check_rule(key: str, value: Any, rule: Rule) -> None:
    if not rule.holds(value):
        hint = suggestion(value, rule.choices) if rule.choices else ""
        raise UserError(f"{key} must be {rule.words}, got {value!r}{hint}")


def _check_combinations(values: dict) -> None:
    """Rejects values that are valid alone but not together."""
    if values["ema_decay"] and values["lookahead"]["every_steps"]:
        raise UserError(
            "ema_decay and lookahead.every_steps both average the parameters: set one of them to 0"
        )
    stopping = values["early_stopping"]
    watches = stopping["patience"] or values["schedule"]["name"] == "reduce_on_plateau"
    if watches and not values["data"]["validation_percent"]:
        raise UserError(
            "data.validation_percent must be above 0 for early stopping and reduce_on_plateau, "
            "which watch a validation split, got 0"
        )
    modes = {"loss": "min", "accuracy": "max", "top5_accuracy": "max"}
    modes |= {metric_name(spec): stopping["mode"] for spec in values["metrics"]}
    if stopping["metric"] not in modes:
        raise UserError(
            f"early_stopping.metric must be one of {', '.join(modes)}, got "
            f"{stopping['metric']!r}{suggestion(stopping['metric'], modes)}"
        )
    better = modes[stopping["metric"]]
    if stopping["mode"] != better:
        raise UserError(
            f"early_stopping.mode must be {better!r} for early_stopping.metric="
            f"{stopping['metric']}, got {stopping['mode']!r}"
        )


def _hint(key: str, default: dict) -> str:
    """Suggests the same key of another section, or a similar key of this one."""
    for name, knob in KNOBS.items():
        section, _, leaf = name.rpartition(".")
        if isinstance(knob.default, dict) and key in knob.default:
            section, leaf = name, key
        if section and leaf == key != "name":
            return f"; did you mean {section}.{key}?"
    return suggestion(key, default)
