"""Keras beside flaxcifar: the same network with the same weights has to give the same logits."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np

from flaxcifar.errors import UserError
from flaxcifar.keras_weights.files import KerasFile
from flaxcifar.models.crcv import SIZES
from flaxcifar.models.network import Arrays, Network

_COUNTERPARTS = ("vgg16", "resnet", "crcv")
_IMAGES = 8
# Of the largest logit; sums in another order are a hundredth of that apart.
_TOLERANCE = 1e-3


def import_keras() -> ModuleType | None:
    """Returns Keras, on JAX unless the environment says otherwise; None where there is none."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras
    except ImportError:  # its backend's, maybe
        return None
    return keras


def keras_spec(model: Any) -> dict[str, Any]:
    """Returns `config.model` as `keras_networks.build` takes it.

    Raises UserError for a model that has no counterpart in Keras.
    """
    spec = dict(model)
    if spec["name"] not in _COUNTERPARTS:
        known = ", ".join(_COUNTERPARTS)
        raise UserError(f"model {spec['name']!r} has no counterpart in Keras (have one: {known})")
    if spec["name"] == "crcv":
        spec["stages"] = SIZES[spec.pop("size", "slim")]
    return spec


def read_model(
    file: KerasFile, spec: dict[str, Any], image_shape: tuple[int, int, int], classes: int
) -> Any:
    """Returns the file's own network or, where it holds only weights, that of `spec` with them.

    The weights are read by Keras. Raises UserError where it cannot do that.
    """
    from flaxcifar.keras_weights import networks

    try:
        if file.network is None:
            model = networks.build(spec, image_shape, classes)
        else:
            model = networks.rebuild(file.network, image_shape)
        # Keras chooses how to read by the ending of the name.
        with tempfile.TemporaryDirectory() as folder:
            model.load_weights(shutil.copyfile(file.path, f"{folder}/file{file.ending}"))
    except (ValueError, TypeError, LookupError) as error:
        words = " ".join(str(error).split())[:300]
        raise UserError(f"Keras cannot read {file.path} ({words})") from error
    return model


def write_model(
    path: Path,
    arrays: dict[str, np.ndarray],
    spec: dict[str, Any],
    image_shape: tuple[int, int, int],
    classes: int,
) -> Any:
    """Writes the network of `spec` to a file; returns it as Keras reads it from there."""
    import keras

    from flaxcifar.keras_weights import networks

    model = networks.build(spec, image_shape, classes)
    networks.set_weights(model, arrays)
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
        model = networks.build(spec, image_shape, classes)
        model.load_weights(path)
        return model
    with _quiet():
        model.save(path)
        return keras.models.load_model(path, compile=False)


def compare(model: Any, network: Network, variables: tuple[Arrays, Arrays]) -> tuple[str, bool]:
    """Returns words on how far the logits on noise are apart, and whether they are equal."""
    import keras

    images = np.random.default_rng(0).normal(size=(_IMAGES, *model.input_shape[1:]))
    images = jnp.asarray(images, jnp.float32)
    # On a GPU, float32 would be rounded in between.
    with jax.default_matmul_precision("highest"):
        apply = jax.jit(lambda *args: network.apply(*args, None, train=False)[0])
        ours = np.asarray(apply(*jax.tree.map(jnp.asarray, variables), images))
        theirs = keras.ops.convert_to_numpy(model(np.asarray(images), training=False))
    difference, largest = (float(np.max(np.abs(x))) for x in (ours - theirs, ours))
    words = (
        f"the logits of Keras {keras.__version__} ({keras.backend.backend()}) and flaxcifar are up "
        f"to {difference:.1e} apart on {_IMAGES} images of noise, the largest is {largest:.1e}"
    )
    return words, difference <= _TOLERANCE * largest + 1e-6


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within, Keras does not say that a format is old."""
    level = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        yield
    finally:
        absl.logging.set_verbosity(level)
