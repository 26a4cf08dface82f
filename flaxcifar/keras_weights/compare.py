"""Compares the logits of a Keras model with those of a flaxcifar network with the same weights."""

import os
from types import ModuleType
from typing import Any

import jax
import numpy as np

from flaxcifar.models.network import Arrays, Network

_IMAGES = 8
# Relative to the largest logit. Another order of sums makes a hundredth of this difference.
_TOLERANCE = 1e-3


def import_keras() -> ModuleType | None:
    """Imports Keras, by default on JAX; returns None if Keras or its backend is not installed."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras
    except ImportError:
        return None
    return keras


def compare(model: Any, network: Network, variables: tuple[Arrays, Arrays]) -> tuple[str, bool]:
    """Compares logits on random images; returns a sentence on the result, and whether they agree.

    Args:
      model: a Keras model of known image shape that returns logits.
    """
    import keras

    numbers = np.random.default_rng(0).normal(size=(_IMAGES, *model.input_shape[1:]))
    images = numbers.astype(np.float32)
    # GPUs would round float32 to fewer bits.
    with jax.default_matmul_precision("highest"):
        apply = jax.jit(lambda p, s, x: network.apply(p, s, x, None, train=False)[0])
        ours = np.asarray(apply(*variables, images))
        theirs = keras.ops.convert_to_numpy(model(images, training=False))
    difference, largest = (float(np.max(np.abs(x))) for x in (ours - theirs, ours))
    words = (
        f"logits of Keras {keras.__version__} ({keras.backend.backend()}) and flaxcifar on "
        f"{_IMAGES} random images differ by at most {difference:.1e}; the largest is {largest:.1e}"
    )
    return words, difference <= _TOLERANCE * largest + 1e-6
