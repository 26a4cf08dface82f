"""Keras models of flaxcifar's networks: building, reading and writing.

Models return float32 logits.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import absl.logging
import keras
from jax.typing import ArrayLike
from keras import layers

from flaxcifar.errors import UserError
from flaxcifar.keras_weights.architectures import Penalty, logits, no_penalty
from flaxcifar.keras_weights.files import LAYERS, KerasFile
from flaxcifar.keras_weights.structure import inputs_of

# From Keras' names of weights to flaxcifar's.
WEIGHTS = {
    "kernel": "kernel",
    "bias": "bias",
    "gamma": "scale",
    "beta": "bias",
    "moving_mean": "mean",
    "moving_variance": "var",
}


def build(
    spec: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    num_classes: int,
    penalty: Penalty = no_penalty,
) -> keras.Model:
    """Builds the model of a config's `model`. A crcv takes `stages` instead of `size`."""
    images = keras.Input(image_shape)
    return keras.Model(images, logits(layers, images, spec, num_classes, penalty))


def set_weights(model: keras.Model, weights: Mapping[str, ArrayLike]) -> None:
    """Assigns weights by flaxcifar's paths; raises ValueError unless model and weights match."""
    variables = {
        f"{layer.name.replace('-', '/')}/{WEIGHTS[weight.name]}": weight
        for layer in model.layers
        for weight in layer.weights
        if weight.name in WEIGHTS
    }
    if variables.keys() != weights.keys():
        raise ValueError(f"not the same network: {sorted(variables.keys() ^ weights.keys())}")
    for path, variable in variables.items():
        variable.assign(weights[path])


def read_model(
    file: KerasFile, spec: Mapping[str, Any], image_shape: tuple[int, int, int], classes: int
) -> keras.Model:
    """Returns the file's own model, or the one of `spec` if the file holds only weights.

    Keras reads the weights.

    Raises:
      UserError: if Keras cannot read the file.
    """
    try:
        if file.network is None:
            model = build(spec, image_shape, classes)
        else:
            model = rebuild(file.network, image_shape)
        # Keras chooses the format by the ending.
        with tempfile.TemporaryDirectory() as folder:
            model.load_weights(shutil.copyfile(file.path, f"{folder}/file{file.ending}"))
    except (ValueError, TypeError, LookupError) as error:
        words = " ".join(str(error).split())[:300]
        raise UserError(f"{file.path}: Keras cannot read it ({words})") from error
    return model


def write_model(
    path: Path,
    weights: Mapping[str, ArrayLike],
    spec: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    classes: int,
) -> keras.Model:
    """Writes the model of `spec` to a file; returns it as Keras reads it back."""
    model = build(spec, image_shape, classes)
    set_weights(model, weights)
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
        model = build(spec, image_shape, classes)
        model.load_weights(path)
        return model
    with _no_warnings():
        model.save(path)
        return keras.models.load_model(path, compile=False)


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Suppresses Keras' warning that a format is old."""
    level = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        yield
    finally:
        absl.logging.set_verbosity(level)


def rebuild(network: Sequence[Mapping[str, Any]], image_shape: tuple[int, int, int]) -> keras.Model:
    """Builds the model of a KerasFile's `network`, without its softmax and weights.

    Takes only the numbers and names of `LAYERS` from the file, so that it can build nothing else.
    Raises Keras' exceptions if they do not fit.
    """
    *body, last = network
    if (last["class_name"], last["config"].get("activation")) == ("Dense", "softmax"):
        body.append({**last, "config": {**last["config"], "activation": "linear"}})
    elif last["class_name"] != "Softmax" and last["config"].get("activation") != "softmax":
        body.append(last)
    x = images = keras.Input(image_shape)
    outputs: dict[str, Any] = {}
    for layer in body:
        if layer["class_name"] != "InputLayer":
            before = [outputs[name] for name in inputs_of(layer.get("inbound_nodes", ()))] or [x]
            x = _rebuild_layer(layer)(before if len(before) > 1 else before[0])
        outputs[layer["config"]["name"]] = x
    return keras.Model(images, x)


def _rebuild_layer(layer: Mapping[str, Any]) -> keras.Layer:
    config = {
        key: layer["config"][key] for key in LAYERS[layer["class_name"]] if key in layer["config"]
    }
    if isinstance(config.get("axis"), list):  # Keras 2
        (config["axis"],) = config["axis"]
    if any(isinstance(value, dict) for value in config.values()):
        raise ValueError(f"{layer['config']['name']} contains an object: {config}")
    return getattr(layers, layer["class_name"])(**config)
