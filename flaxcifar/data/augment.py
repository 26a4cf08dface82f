"""Augmentations: run on the device, inside the compiled step, and random per example.

A registered augmentation takes float32 images [B, H, W, C] on the 0..255 scale and a `Random`, and
returns images of the same shape and type; its keywords are the config's. What happens to an example
depends on the seed, the epoch, its index in the training split and the place of the augmentation in
the list, never on the rest of the batch, so that any number of devices trains on the same images.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from flaxcifar.errors import UserError
from flaxcifar.ops import hashing
from flaxcifar.registry import Registry

AUGMENTATIONS = Registry("augmentation")

# (uint8 images [B, H, W, C], int32 index [B], seed, epoch) -> float32 images on the 0..255 scale.
Augment = Callable[[jax.Array, jax.Array, ArrayLike, ArrayLike], jax.Array]


def make_augment(
    specs: Sequence[Mapping[str, Any]], image_shape: tuple[int, int, int] = (4096, 4096, 3)
) -> Augment:
    """Returns the composition of `specs`, each a `dict(name=..., **kwargs)`, first to last.

    Raises UserError for a wrong name, keyword or value. What is too large for `image_shape` is
    wrong, too; without one, that shows when the function first sees images.
    """
    augment = functools.partial(_augment, tuple(specs))
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
    jax.eval_shape(augment, images, jax.ShapeDtypeStruct((1,), jnp.int32), 0, 0)
    return augment


def _augment(
    specs: tuple[Mapping[str, Any], ...],
    images: jax.Array,
    index: jax.Array,
    seed: ArrayLike,
    epoch: ArrayLike,
) -> jax.Array:
    images = images.astype(jnp.float32)
    for place, spec in enumerate(specs):
        random = Random(hashing.combine(seed, place, index), jnp.asarray(epoch))
        images = _apart(lambda x, s=spec, r=random: AUGMENTATIONS.call(s, x, r), images, random)
    return images


def _apart(function: Callable, images: jax.Array, random: "Random") -> jax.Array:
    """Calls `function`; on CPU as a computation that XLA fuses with nothing before or after.

    XLA:CPU (jaxlib 0.10) puts a whole chain of gathers, flips and the normalization into one loop
    that computes every index again for every element, 20 times slower than its parts; it takes no
    notice of `lax.optimization_barrier`. The branch of a condition it leaves alone.
    """

    def branch(x: jax.Array) -> jax.Array:
        return jax.lax.cond(random.epoch >= 0, function, lambda x: x, x)  # always the first

    return jax.lax.platform_dependent(images, cpu=branch, default=function)


@dataclasses.dataclass(frozen=True)
class Random:
    """The random numbers of one augmentation, for every example its own.

    Attributes:
      example: uint32 [B], random bits of the example that are the same in every epoch.
      epoch: integer scalar, from 0.
    """

    example: jax.Array
    epoch: jax.Array

    def bits(self, draw: int) -> jax.Array:
        """Returns uint32 [B], new in every epoch; different draws are independent."""
        return hashing.combine(self.example, self.epoch, draw)

    def uniform(self, draw: int, low: float = 0.0, high: float = 1.0) -> jax.Array:
        """Returns float32 [B] from `low` to below `high`."""
        return low + (high - low) * ((self.bits(draw) >> 8).astype(jnp.float32) * 2.0**-24)

    def integer(self, draw: int, count: int) -> jax.Array:
        """Returns int32 [B] from 0 to `count` - 1; `count` is far below 2**32."""
        return (self.bits(draw) % count).astype(jnp.int32)


def _require(good: bool, message: str) -> None:
    if not good:
        raise UserError(f"config.augment: {message}")


def _number(name: str, value: Any, least: float, most: float, kind: type = float) -> None:
    """Requires a number, or an integer, from `least` to `most`."""
    right = isinstance(value, kind | int) and not isinstance(value, bool)
    word = "an integer" if kind is int else "a number"
    _require(
        right and least <= value <= most,
        f"{name} is {value!r}; it must be {word} from {least} to {most}",
    )


def _take(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns images[b, rows[b], columns[b]]; rows and columns int32, broadcast to [B, H, W].

    One gather of whole pixels over all images: several times as fast on CPU as one of scalars.
    """
    batch, height, width, channels = images.shape
    first = jnp.arange(batch)[:, None, None] * height
    return images.reshape(-1, channels).at[(first + rows) * width + columns].get(mode="clip")


@AUGMENTATIONS.register
def affine(
    images: jax.Array,
    random: Random,
    *,
    rotation_range: float = 0.0,
    width_shift_range: float = 0.0,
    height_shift_range: float = 0.0,
) -> jax.Array:
    """Rotates about the centre and shifts, each uniformly at random: Keras' ImageDataGenerator.

    `rotation_range` is the largest angle in degrees, either way; the shifts are fractions of width
    and height, either way and not rounded to pixels. Bilinear; pixels outside the image have the
    colour of the nearest one at its edge.
    """
    _number("rotation_range", rotation_range, 0, 180)
    _number("width_shift_range", width_shift_range, 0, 1)
    _number("height_shift_range", height_shift_range, 0, 1)
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
    """Rotates by `angle` (radians) the images shifted by `down` and `right` (pixels).

    float32 [B] each, or None. The pixel at p from the centre shows the image at
    R(angle) (p + shift) from it, interpolated bilinearly between the four pixels around.
    """
    height, width = images.shape[1:3]
    rows = (jnp.arange(height) - (height - 1) / 2)[None, :, None]
    columns = (jnp.arange(width) - (width - 1) / 2)[None, None, :]
    if down is not None:
        rows += down[:, None, None]
    if right is not None:
        columns += right[:, None, None]
    if angle is not None:
        sine, cosine = jnp.sin(angle)[:, None, None], jnp.cos(angle)[:, None, None]
        rows, columns = cosine * rows + sine * columns, cosine * columns - sine * rows
    rows = jnp.clip(rows + (height - 1) / 2, 0, height - 1)
    columns = jnp.clip(columns + (width - 1) / 2, 0, width - 1)
    top, left = jnp.floor(rows).astype(jnp.int32), jnp.floor(columns).astype(jnp.int32)
    down_share, right_share = (rows - top)[..., None], (columns - left)[..., None]
    # One gather of pixels with their neighbours is twice as fast on CPU as four of single pixels.
    # Beyond the last row or column lies the first; its share is 0.
    around = [jnp.roll(images, (-i, -j), (1, 2)) for i in (0, 1) for j in (0, 1)]
    found = _take(jnp.concatenate(around, axis=-1), top, left)
    here, beside, under, across = jnp.split(found, 4, axis=-1)
    above = here + right_share * (beside - here)
    below = under + right_share * (across - under)
    return above + down_share * (below - above)


@AUGMENTATIONS.register
def horizontal_flip(images: jax.Array, random: Random, *, probability: float = 0.5) -> jax.Array:
    """Mirrors left and right."""
    _number("probability", probability, 0, 1)
    flip = random.uniform(0) < probability
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


@AUGMENTATIONS.register
def vertical_flip(images: jax.Array, random: Random, *, probability: float = 0.5) -> jax.Array:
    """Mirrors top and bottom."""
    _number("probability", probability, 0, 1)
    flip = random.uniform(0) < probability
    return jnp.where(flip[:, None, None, None], images[:, ::-1], images)


@AUGMENTATIONS.register
def alternating_flip(images: jax.Array, random: Random) -> jax.Array:
    """Mirrors left and right a random half in the first epoch, the other half in the next, ...

    Two epochs thus show every image both ways; from airbench (https://arxiv.org/abs/2404.00498).
    """
    flip = (random.example + random.epoch.astype(jnp.uint32)) % 2 == 1
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


@AUGMENTATIONS.register
def pad_crop(
    images: jax.Array, random: Random, *, padding: int, mode: str = "reflect"
) -> jax.Array:
    """Pads by `padding` pixels on every side and crops at random to the old size.

    All (2 * padding + 1) ** 2 offsets are equally likely. `mode` is what the border shows:
    "reflect" (the image mirrored at its edge pixels), "edge" (the edge pixels) or "constant"
    (black).
    """
    height, width = images.shape[1:3]
    _number("padding", padding, 0, min(height, width) - 1, int)
    modes = ("reflect", "edge", "constant")
    _require(mode in modes, f"mode is {mode!r}; there are {', '.join(modes)}")

    def source(size: int, draw: int) -> jax.Array:
        """Returns int32 [B, size]: where each pixel along an axis comes from, -1 for nowhere."""
        options = {"constant_values": -1} if mode == "constant" else {}
        padded = np.pad(np.arange(size, dtype=np.int32), padding, mode, **options)
        offset = random.integer(draw, 2 * padding + 1)
        return jnp.asarray(padded)[offset[:, None] + np.arange(size)]

    rows, columns = source(height, 0)[:, :, None], source(width, 1)[:, None, :]
    if mode != "constant":
        return _take(images, rows, columns)
    inside = (rows >= 0) & (columns >= 0)
    pixels = _take(images, jnp.maximum(rows, 0), jnp.maximum(columns, 0))
    return jnp.where(inside[..., None], pixels, 0.0)


def resize(images: jax.Array, size: int) -> jax.Array:
    """Returns float32 images [B, size, size, C]: bilinear, and smoothed first where they shrink.

    Not an augmentation of its own, since those keep an image's shape.
    """
    shape = (images.shape[0], size, size, images.shape[-1])
    return jax.image.resize(images, shape, "bilinear", antialias=True)


@AUGMENTATIONS.register
def cutout(images: jax.Array, random: Random, *, size: int, fill: float = 127.5) -> jax.Array:
    """Fills a square of `size` x `size` pixels, its centre anywhere in the image, with grey.

    At the border part of the square falls outside. Cutout (https://arxiv.org/abs/1708.04552).
    """
    height, width = images.shape[1:3]
    _number("size", size, 1, min(height, width), int)
    _number("fill", fill, 0, 255)

    def covered(length: int, draw: int) -> jax.Array:
        """Returns bool [B, length]: the pixels along an axis that the square covers."""
        start = random.integer(draw, length)[:, None] - size // 2
        return (np.arange(length) >= start) & (np.arange(length) < start + size)

    square = covered(height, 0)[:, :, None] & covered(width, 1)[:, None, :]
    return jnp.where(square[..., None], fill, images)
