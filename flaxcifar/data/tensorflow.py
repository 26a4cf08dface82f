"""Imports TensorFlow, confined to the CPU: it must never take an accelerator from JAX."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from types import ModuleType

from flaxcifar.errors import UserError


def import_tensorflow() -> ModuleType:
    """Returns the module `tensorflow`, confined to the CPU, without its start-up messages.

    Leaves out Keras, which nothing here uses through TensorFlow and which takes a third of the
    time.

    Raises:
      UserError: it cannot be imported; the message names alternatives.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with _discarded_stderr(), _without("keras"):
            import tensorflow as tf
    except Exception as error:  # a broken installation raises more than ImportError
        raise UserError(
            f"TensorFlow cannot be imported ({failure(error)}): install tensorflow-cpu, or use "
            "data.pipeline=resident with a cached dataset, a CIFAR python archive, "
            "data.name=folder or data.name=synthetic"
        ) from error
    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    return tf


def import_tfds() -> ModuleType:
    """Returns the module `tensorflow_datasets`, which imports TensorFlow."""
    import_tensorflow()
    import tensorflow_datasets as tfds

    return tfds


def failure(error: Exception) -> str:
    """Returns an error as words of one line, without TensorFlow's graph node names."""
    words = re.sub(r"\{\{.*?\}\}", "", str(error)).split()
    return f"{type(error).__name__}: {' '.join(words)[:200]}"


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    """Context manager: a module that is not imported yet cannot be imported."""
    absent = name not in sys.modules
    if absent:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules[name]


@contextlib.contextmanager
def _discarded_stderr() -> Iterator[None]:
    """Context manager: drops what TensorFlow's libraries print as they load, at any log level."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
