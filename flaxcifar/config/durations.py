"""Converts durations in epochs or percent of a run into steps."""

import math
from collections.abc import Mapping
from typing import Any

from flaxcifar.errors import UserError
from flaxcifar.rules import fits


def resolve_durations(spec: Mapping, steps_per_epoch: int, total_steps: int) -> dict:
    """Returns `spec` with every `<stem>_epochs` and `<stem>_percent` as integer `<stem>_steps`.

    Args:
      spec: keywords of a registered function. A duration is a number or a tuple of numbers.
      steps_per_epoch: converts epochs; fractions round to the nearest step.
      total_steps: the length of the run, of which percentages are taken.

    Raises:
      UserError: a duration is not a number of at least 0, or is given in two units.
    """
    units = {"steps": 1.0, "epochs": float(steps_per_epoch), "percent": total_steps / 100}
    result: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for key, value in spec.items():
        stem, _, unit = key.rpartition("_")
        if not stem or unit not in units:
            result[key] = value
            continue
        if stem in sources:
            raise UserError(f"{sources[stem]} and {key} are the same duration: give one of them")
        sources[stem] = key
        many = isinstance(value, tuple | list)
        for duration in value if many else [value]:
            if not fits(duration, float) or not math.isfinite(duration) or duration < 0:
                raise UserError(f"{key} must be a number of {unit}, at least 0, got {value!r}")
        steps = tuple(round(duration * units[unit]) for duration in (value if many else [value]))
        result[f"{stem}_steps"] = steps if many else steps[0]
    return result
