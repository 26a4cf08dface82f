"""Geometric augmentations: flips, shifts, rotations and crops."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np

from flaxcifar.data.augment import AUGMENTATIONS
from flaxcifar.data.augment.checks import require_within
from flaxcifar.data.augment.keys import Random
from flaxcifar.rules import Share, at_least, between


@AUGMENTATIONS.register
def affine(
    images: jax.Array,
    random: Random,
    *,
    rotation_range: Annotated[float, between(0, 180)] = 0.0,
    width_shift_range: Share = 0.0,
    height_shift_range: Share = 0.0,
) -> jax.Array:
    """Rotates about the centre and shifts, as Keras' ImageDataGenerator does.

    Angle and shifts are uniform. Interpolation is bilinear; pixels outside the image take the
    colour of the nearest edge pixel.

    Args:
      rotation_range: maximum angle in degrees, in either direction.
      width_shift_range: maximum shift to the left or right, as a fraction of the width. Shifts are
        not rounded to whole pixels.
      height_shift_range: the same up or down, as a fraction of the height.
    """
    if not (rotation_range or width_shift_range or height_shift_range):
        return images
    height, width = images.shape[1:3]
    angle = down = right = None
    if rotation_range:
        angle = jnp.deg2rad(random.uniform(0, -rotation_range, rotation_range))
    if height_shift_range:
        down = height * random.uniform(1, -height_shift_range, height_shift_range)
    if width_shift_range:
        right = width * random.uniform(2, -width_shift_range, width_shift_range)
    return transform(images, angle, down, right)


def transform(
    images: jax.Array,
    angle: jax.Array | None,
    down: jax.Array | None,
    right: jax.Array | None,
) -> jax.Array:
    """Shifts images, then rotates them about their centre.

    The pixel at offset p from the centre shows the image at offset R(angle) (p + shift),
    interpolated bilinearly.

    Args:
      images: float32 [B, H, W, C].
      angle: float32 [B] in radians, or None for no rotation.
      down, right: float32 [B] in pixels, or None for no shift.
    """
    rows, columns = _coordinates(images.shape[1:3], angle, down, right)
    top, left = jnp.floor(rows).astype(jnp.int32), jnp.floor(columns).astype(jnp.int32)
    down_share = (rows - top.astype(jnp.float32))[..., None]
    right_share = (columns - left.astype(jnp.float32))[..., None]
    # One gather of pixels with their neighbours is twice as fast on CPU as four of single pixels.
    # The roll wraps around after the last row and column, where the neighbour's share is 0.
    neighbours = [jnp.roll(images, (-i, -j), (1, 2)) for i in (0, 1) for j in (0, 1)]
    found = take_pixels(jnp.concatenate(neighbours, axis=-1), top, left)
    top_left, top_right, bottom_left, bottom_right = jnp.split(found, 4, axis=-1)
    above = top_left + right_share * (top_right - top_left)
    below = bottom_left + right_share * (bottom_right - bottom_left)
    return above + down_share * (below - above)


def _coordinates(
    size: tuple[int, ...],
    angle: jax.Array | None,
    down: jax.Array | None,
    right: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the row and column that each output pixel shows, float32 [B, H, W]."""
    height, width = size
    rows = (jnp.arange(height).astype(jnp.float32) - (height - 1) / 2)[None, :, None]
    columns = (jnp.arange(width).astype(jnp.float32) - (width - 1) / 2)[None, None, :]
    if down is not None:
        rows += down[:, None, None]
    if right is not None:
        columns += right[:, None, None]
    if angle is not None:
        sine, cosine = jnp.sin(angle)[:, None, None], jnp.cos(angle)[:, None, None]
        rows, columns = cosine * rows + sine * columns, cosine * columns - sine * rows
    rows = jnp.clip(rows + (height - 1) / 2, 0, height - 1)
    columns = jnp.clip(columns + (width - 1) / 2, 0, width - 1)
    return rows, columns


def take_pixels(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns images[b, rows[b], columns[b]]; rows and columns are int32, broadcast to [B, H, W].

    One gather of whole pixels over all images is several times faster on CPU than one of scalars.
    """
    batch, height, width, channels = images.shape
    first = jnp.arange(batch)[:, None, None] * height
    return images.reshape(-1, channels).at[(first + rows) * width + columns].get(mode="clip")


@AUGMENTATIONS.register
def horizontal_flip(images: jax.Array, random: Random, *, probability: Share = 0.5) -> jax.Array:
    """Flips left to right with the given probability."""
    flip = random.uniform(0) < probability
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


@AUGMENTATIONS.register
def vertical_flip(images: jax.Array, random: Random, *, probability: Share = 0.5) -> jax.Array:
    """Flips upside down with the given probability."""
    flip = random.uniform(0) < probability
    return jnp.where(flip[:, None, None, None], images[:, ::-1], images)


@AUGMENTATIONS.register
def alternating_flip(images: jax.Array, random: Random) -> jax.Array:
    """Flips a random half of the images left to right, and the other half in the next epoch.

    Any two consecutive epochs show every image both ways. From airbench
    (https://arxiv.org/abs/2404.00498).
    """
    flip = (random.example + random.epoch.astype(jnp.uint32)) % 2 == 1
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


@AUGMENTATIONS.register
def pad_crop(
    images: jax.Array,
    random: Random,
    *,
    padding: Annotated[int, at_least(0)],
    mode: Literal["reflect", "edge", "constant"] = "reflect",
) -> jax.Array:
    """Pads every side and crops at a random offset to the original size.

    Args:
      padding: pixels on each side. All (2 * padding + 1) ** 2 offsets are equally likely.
      mode: content of the border: "reflect" (mirrored at the edge pixels), "edge" (the edge
        pixels repeated) or "constant" (black).
    """
    height, width = images.shape[1:3]
    require_within("padding", padding, min(height, width) - 1)

    def source(size: int, draw: int) -> jax.Array:
        """Returns int32 [B, size]: the source of each pixel along an axis, -1 for the border."""
        pixels = np.arange(size, dtype=np.int32)
        if mode == "constant":
            padded = np.pad(pixels, padding, mode, constant_values=-1)
        else:
            padded = np.pad(pixels, padding, mode)
        offset = random.integer(draw, 2 * padding + 1)
        return jnp.asarray(padded)[offset[:, None] + np.arange(size)[None, :]]

    rows, columns = source(height, 0)[:, :, None], source(width, 1)[:, None, :]
    if mode != "constant":
        return take_pixels(images, rows, columns)
    inside = (rows >= 0) & (columns >= 0)
    pixels = take_pixels(images, jnp.maximum(rows, 0), jnp.maximum(columns, 0))
    return jnp.where(inside[..., None], pixels, 0.0)
