"""Keras models of flaxcifar's networks: building, reading and writing.

Layers are named like the modules in flaxcifar/models, with "-" for "/". Models return float32
logits.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import absl.logging
import keras
import numpy as np
from keras import layers

from flaxcifar.errors import UserError
from flaxcifar.keras_weights.files import LAYERS, KerasFile

# From Keras' names of weights to flaxcifar's.
WEIGHTS = {
    "kernel": "kernel",
    "bias": "bias",
    "gamma": "scale",
    "beta": "bias",
    "moving_mean": "mean",
    "moving_variance": "var",
}

# From the path of a kernel to its regularizer or None.
Penalty = Callable[[str], Any]


def build(
    spec: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    num_classes: int,
    penalty: Penalty = lambda path: None,
) -> keras.Model:
    """Builds the model of a config's `model`. A crcv takes `stages` instead of `size`."""
    keywords = {key: value for key, value in spec.items() if key != "name"}
    images = keras.Input(image_shape)
    networks = {"vgg16": vgg16, "resnet": resnet, "crcv": crcv}
    if spec["name"] not in networks:
        raise ValueError(f"{spec['name']} has no counterpart in Keras here")
    features = networks[spec["name"]](images, penalty, **keywords)
    head = layers.Dense(
        num_classes, kernel_regularizer=penalty("head/kernel"), dtype="float32", name="head"
    )
    return keras.Model(images, head(features))


def _conv(x, path: str, penalty: Penalty, features: int, size: int = 3, stride: int = 1):
    return layers.Conv2D(
        features,
        size,
        stride,
        padding="same",
        kernel_regularizer=penalty(f"{path}/kernel"),
        name=path.replace("/", "-"),
    )(x)


def _norm(x, path: str):
    return layers.BatchNormalization(name=path.replace("/", "-"))(x)


def _relu(x):
    return layers.ReLU()(x)


def _dropout(x, rate: float):
    return layers.Dropout(rate)(x) if rate else x


def vgg16(x, penalty: Penalty, *, width: int = 64, dropout: float = 1.0):
    """Returns the features of a VGG16 with BatchNorm and dropout (cifar-vgg)."""
    depths = (2, 2, 3, 3, 3)
    for stage, depth in enumerate(depths, 1):
        features = min(2 ** (stage - 1), 8) * width
        for n in range(1, depth + 1):
            path = f"stage{stage}/conv{n}"
            x = _relu(_conv(x, path, penalty, features))
            x = _norm(x, f"stage{stage}/norm{n}")
            if n < depth:
                x = _dropout(x, dropout * (0.3 if stage == 1 else 0.4))
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(_dropout(x, 0.5 * dropout))
    regularizer = penalty("dense/linear/kernel")
    x = layers.Dense(8 * width, kernel_regularizer=regularizer, name="dense-linear")(x)
    return _dropout(_norm(_relu(x), "dense/norm"), 0.5 * dropout)


def resnet(
    x,
    penalty: Penalty,
    *,
    widths: Sequence[int] = (128, 256, 512, 1024),
    dropout: float = 0.5,
    shortcut_first: bool = False,
):
    """Returns the features of a ResNet with a convolution in every shortcut.

    `shortcut_first` only changes the order of the model's layers.
    """
    x = _relu(_norm(_conv(x, "stem/conv", penalty, widths[0]), "stem/norm"))
    x = _dropout(x, dropout)
    for stage, width in enumerate(widths, 1):
        for n in (1, 2):
            path, stride = f"stage{stage}/block{n}", 2 if stage > 1 and n == 1 else 1
            y = _conv(x, f"{path}/conv1", penalty, width, stride=stride)
            y = _relu(_norm(y, f"{path}/norm1"))
            y = _norm(_conv(y, f"{path}/conv2", penalty, width), f"{path}/norm2")
            x = _conv(x, f"{path}/shortcut", penalty, width, size=1, stride=stride)
            x = _norm(x, f"{path}/shortcut_norm")
            x = _relu(layers.add([x, y] if shortcut_first else [y, x]))
    return layers.GlobalAveragePooling2D()(x)


def crcv(x, penalty: Penalty, *, stages: Sequence[Sequence[int]], dropout: float = 0.1):
    """Returns the features of a plain CNN."""
    for stage, widths in enumerate(stages, 1):
        for n, features in enumerate(widths, 1):
            x = _conv(x, f"stage{stage}/conv{n}", penalty, features)
            if n == len(widths) and stage < len(stages):
                x = layers.MaxPooling2D(2)(x)
            x = _relu(_norm(x, f"stage{stage}/norm{n}"))
        x = _dropout(x, dropout if stage > 1 else 0.0)
    return layers.GlobalAveragePooling2D()(x)


def set_weights(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
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
    weights: Mapping[str, np.ndarray],
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
    outputs = {}
    for layer in body:
        if layer["class_name"] != "InputLayer":
            before = [outputs[name] for name in _inbound(layer.get("inbound_nodes", ()))] or [x]
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


def _inbound(nodes: Any) -> Iterator[str]:
    """Yields the names of a layer's input layers, in the format of Keras 2 or 3."""
    if isinstance(nodes, dict) and "keras_history" in nodes:
        yield nodes["keras_history"][0]
    elif isinstance(nodes, list) and nodes and isinstance(nodes[0], str):
        yield nodes[0]
    elif isinstance(nodes, list | dict):
        for node in nodes.values() if isinstance(nodes, dict) else nodes:
            yield from _inbound(node)
