"""Applies augmentations to small images; every program is compiled once per shape."""

import ast
import functools

import jax
import numpy as np

from flaxcifar.data.augment import make_augment


def some_images(batch, height=9, width=7, channels=3, seed=0):
    shape = (batch, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def apply(specs, images, index=None, seed=0, epoch=0):
    """float32 images; seed and epoch are traced."""
    index = np.arange(len(images), dtype=np.int32) if index is None else index
    return np.asarray(compiled(specs)(images, index, np.int32(seed), np.int32(epoch)))


def compiled(specs):
    return _compiled(repr(specs))


@functools.lru_cache
def _compiled(specs):
    return jax.jit(make_augment(ast.literal_eval(specs)))
