"""flaxcifar's networks in terms of Keras' layers.

`layers` is `keras.layers`, or the recorder of `structure.py`, which needs no Keras. Layers are
named like the modules in flaxcifar/models, with "-" for "/".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# From the path of a kernel to its regularizer or None.
Penalty = Callable[[str], Any]


def no_penalty(path: str) -> None:
    """Returns None."""


def logits(
    layers: Any,
    images: Any,
    spec: Mapping[str, Any],
    num_classes: int,
    penalty: Penalty = no_penalty,
) -> Any:
    """Returns the logits of a config's `model`. A crcv takes `stages` instead of `size`."""
    keywords = {key: value for key, value in spec.items() if key != "name"}
    networks: dict[str, Callable] = {"vgg16": vgg16, "resnet": resnet, "crcv": crcv}
    if spec["name"] not in networks:
        raise ValueError(f"{spec['name']} has no counterpart in Keras here")
    features = networks[spec["name"]](layers, images, penalty, **keywords)
    regularizer = penalty("head/kernel")
    return layers.Dense(
        units=num_classes, kernel_regularizer=regularizer, dtype="float32", name="head"
    )(features)


def _conv(
    layers: Any,
    x: Any,
    path: str,
    penalty: Penalty,
    features: int,
    size: int = 3,
    stride: int = 1,
) -> Any:
    return layers.Conv2D(
        filters=features,
        kernel_size=size,
        strides=stride,
        padding="same",
        kernel_regularizer=penalty(f"{path}/kernel"),
        name=path.replace("/", "-"),
    )(x)


def _norm(layers: Any, x: Any, path: str) -> Any:
    return layers.BatchNormalization(name=path.replace("/", "-"))(x)


def _dropout(layers: Any, x: Any, rate: float) -> Any:
    return layers.Dropout(rate=rate)(x) if rate else x


def vgg16(layers: Any, x: Any, penalty: Penalty, *, width: int = 64, dropout: float = 1.0) -> Any:
    """Returns the features of a VGG16 with BatchNorm and dropout (cifar-vgg)."""
    depths = (2, 2, 3, 3, 3)
    for stage, depth in enumerate(depths, 1):
        features = min(2 ** (stage - 1), 8) * width
        for n in range(1, depth + 1):
            path = f"stage{stage}/conv{n}"
            x = layers.ReLU()(_conv(layers, x, path, penalty, features))
            x = _norm(layers, x, f"stage{stage}/norm{n}")
            if n < depth:
                x = _dropout(layers, x, dropout * (0.3 if stage == 1 else 0.4))
        x = layers.MaxPooling2D(pool_size=2)(x)
    x = layers.Flatten()(_dropout(layers, x, 0.5 * dropout))
    regularizer = penalty("dense/linear/kernel")
    x = layers.Dense(units=8 * width, kernel_regularizer=regularizer, name="dense-linear")(x)
    return _dropout(layers, _norm(layers, layers.ReLU()(x), "dense/norm"), 0.5 * dropout)


def resnet(
    layers: Any,
    x: Any,
    penalty: Penalty,
    *,
    widths: Sequence[int] = (128, 256, 512, 1024),
    dropout: float = 0.5,
    shortcut_first: bool = False,
) -> Any:
    """Returns the features of a ResNet with a convolution in every shortcut.

    `shortcut_first` only changes the order of the model's layers.
    """
    x = _norm(layers, _conv(layers, x, "stem/conv", penalty, widths[0]), "stem/norm")
    x = _dropout(layers, layers.ReLU()(x), dropout)
    for stage, width in enumerate(widths, 1):
        for n in (1, 2):
            path, stride = f"stage{stage}/block{n}", 2 if stage > 1 and n == 1 else 1
            y = _conv(layers, x, f"{path}/conv1", penalty, width, stride=stride)
            y = layers.ReLU()(_norm(layers, y, f"{path}/norm1"))
            y = _conv(layers, y, f"{path}/conv2", penalty, width)
            y = _norm(layers, y, f"{path}/norm2")
            x = _conv(layers, x, f"{path}/shortcut", penalty, width, size=1, stride=stride)
            x = _norm(layers, x, f"{path}/shortcut_norm")
            x = layers.ReLU()(layers.Add()([x, y] if shortcut_first else [y, x]))
    return layers.GlobalAveragePooling2D()(x)


def crcv(
    layers: Any,
    x: Any,
    penalty: Penalty,
    *,
    stages: Sequence[Sequence[int]],
    dropout: float = 0.1,
) -> Any:
    """Returns the features of a plain CNN."""
    for stage, widths in enumerate(stages, 1):
        for n, features in enumerate(widths, 1):
            x = _conv(layers, x, f"stage{stage}/conv{n}", penalty, features)
            if n == len(widths) and stage < len(stages):
                x = layers.MaxPooling2D(pool_size=2)(x)
            x = layers.ReLU()(_norm(layers, x, f"stage{stage}/norm{n}"))
        x = _dropout(layers, x, dropout if stage > 1 else 0.0)
    return layers.GlobalAveragePooling2D()(x)
