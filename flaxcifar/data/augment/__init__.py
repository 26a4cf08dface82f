"""Augmentations: one file a family. A new file that registers a function needs no other edit.

Augmentations run on the device, inside the compiled step, and are random per example. A registered
function takes float32 images [B, H, W, C] on the 0..255 scale and a `keys.Random`, and returns
images of the same shape and dtype. Its keyword-only arguments are what a config may set.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flaxcifar.data.augment.keys import Random
from flaxcifar.registry import Registry

AUGMENTATIONS = Registry("augmentation", package=__name__)

# (uint8 images [B, H, W, C], int32 index [B], seed, epoch) -> float32 images on the 0..255 scale.
Augment = Callable[[jax.Array, jax.Array, ArrayLike, ArrayLike], jax.Array]


def make_augment(
    specs: Sequence[Mapping[str, Any]], image_shape: tuple[int, int, int] = (4096, 4096, 3)
) -> Augment:
    """Returns a function that applies augmentations in order.

    Args:
      specs: the augmentations, each `dict(name=..., **kwargs)`.
      image_shape: (H, W, C) of the images, to check sizes against. By default they are checked
        when the function is traced.

    Returns:
      A function of uint8 images [B, H, W, C], int32 positions [B] in the training split, the seed
      and the epoch. It returns float32 images [B, H, W, C] on the 0..255 scale.

    Raises:
      UserError: a name, keyword or value is not valid.
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
        random = Random.keyed(seed, place, index, epoch)
        images = _unfused(lambda x, s=spec, r=random: AUGMENTATIONS.call(s, x, r), images, random)
    return images


def _unfused(function: Callable, images: jax.Array, random: Random) -> jax.Array:
    """Calls `function`; keeps XLA:CPU from fusing it with what precedes or follows.

    XLA:CPU (jaxlib 0.10) fuses a whole chain of gathers, flips and the normalization into one loop
    that recomputes every index for every element, 20 times slower than its parts, and ignores
    `lax.optimization_barrier`. It does not fuse across the branch of a conditional.
    """

    def branch(x: jax.Array) -> jax.Array:
        return jax.lax.cond(random.epoch >= 0, function, lambda x: x, x)  # always `function`

    return jax.lax.platform_dependent(images, cpu=branch, default=function)
