"""Checks of the keywords of augmentations."""

from typing import Any

from flaxcifar.errors import UserError


def require(valid: bool, message: str) -> None:
    """Raises UserError with `message` unless `valid`."""
    if not valid:
        raise UserError(f"config.augment: {message}")


def require_number(name: str, value: Any, least: float, most: float, kind: type = float) -> None:
    """Raises UserError unless `value` is a number, or an int, from `least` to `most`."""
    word = "an integer" if kind is int else "a number"
    valid = isinstance(value, kind | int) and not isinstance(value, bool)
    require(
        valid and least <= value <= most,
        f"{name} must be {word} from {least} to {most}, got {value!r}.",
    )
