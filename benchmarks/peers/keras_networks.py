"""The networks of flaxcifar/models in Keras, and their weights under flaxcifar's paths.

A layer is called as the module there, with "-" for "/". Logits are float32, without softmax.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

# Keras' names of weights, and flaxcifar's.
WEIGHTS = {
    "kernel": "kernel",
    "bias": "bias",
    "gamma": "scale",
    "beta": "bias",
    "moving_mean": "mean",
    "moving_variance": "var",
}

# Given the path of a kernel, its regularizer or None.
Penalty = Callable[[str], Any]


def build(
    spec: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    num_classes: int,
    penalty: Penalty = lambda path: None,
) -> keras.Model:
    """Returns the model of a `network_spec`."""
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
    x, penalty: Penalty, *, widths: Sequence[int] = (128, 256, 512, 1024), dropout: float = 0.5
):
    """Returns the features of the ResNet whose shortcuts are all convolutions."""
    x = _relu(_norm(_conv(x, "stem/conv", penalty, widths[0]), "stem/norm"))
    x = _dropout(x, dropout)
    for stage, width in enumerate(widths, 1):
        for n in (1, 2):
            path, stride = f"stage{stage}/block{n}", 2 if stage > 1 and n == 1 else 1
            y = _conv(x, f"{path}/conv1", penalty, width, stride=stride)
            y = _relu(_norm(y, f"{path}/norm1"))
            y = _norm(_conv(y, f"{path}/conv2", penalty, width), f"{path}/norm2")
            x = _conv(x, f"{path}/shortcut", penalty, width, size=1, stride=stride)
            x = _relu(layers.add([y, _norm(x, f"{path}/shortcut_norm")]))
    return layers.GlobalAveragePooling2D()(x)


def crcv(x, penalty: Penalty, *, stages: Sequence[Sequence[int]], dropout: float = 0.1):
    """Returns the features of the plain CNN."""
    for stage, widths in enumerate(stages, 1):
        for n, features in enumerate(widths, 1):
            x = _conv(x, f"stage{stage}/conv{n}", penalty, features)
            if n == len(widths) and stage < len(stages):
                x = layers.MaxPooling2D(2)(x)
            x = _relu(_norm(x, f"stage{stage}/norm{n}"))
        x = _dropout(x, dropout if stage > 1 else 0.0)
    return layers.GlobalAveragePooling2D()(x)


def set_weights(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    """Gives the model its weights by path; raises ValueError unless the paths are the same."""
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
