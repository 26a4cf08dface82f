"""Checks of augmentations against the size of the images."""

from flaxcifar.errors import UserError


def require_within(name: str, value: int, most: int) -> None:
    """Raises UserError if the keyword `name` is larger than the images allow."""
    if value > most:
        raise UserError(f"config.augment: {name} must be at most {most} here, got {value}")
