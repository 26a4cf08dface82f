"""The one door to TensorFlow, which must never take an accelerator from JAX."""

import contextlib
import os
import re
from collections.abc import Iterator
from types import ModuleType

from flaxcifar.errors import UserError


def import_tensorflow() -> ModuleType:
    """Returns the module `tensorflow`, confined to the CPU and quiet.

    Raises UserError where it cannot be imported, naming what works without it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with _discarded_stderr():
            import tensorflow as tf
    except Exception as error:  # a broken installation raises far more than ImportError
        raise UserError(
            f"TensorFlow cannot be imported ({failure(error)}): install "
            "tensorflow-cpu, or do without it: data.pipeline=resident, with data that is cached, "
            "a CIFAR python archive, data.name=folder or data.name=synthetic"
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
    """Returns an error as part of a line, without TensorFlow's names of graph nodes."""
    words = re.sub(r"\{\{.*?\}\}", "", str(error)).split()
    return f"{type(error).__name__}: {' '.join(words)[:200]}"


@contextlib.contextmanager
def _discarded_stderr() -> Iterator[None]:
    """TensorFlow's libraries write to the descriptor as they load, whatever the log level is."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
