"""Which layer of a Keras file is which of a network: by order and shapes, not by names."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from flax import nnx

from flaxcifar.errors import UserError
from flaxcifar.keras_weights.files import FileLayer, KerasFile
from flaxcifar.models.network import Network
from flaxcifar.models.summary import layer_rows

# Keras' order of a layer's arrays, by the names they have here.
_ORDER = ("kernel", "scale", "bias", "mean", "var")
# By the number of dimensions of the first.
_KINDS = {4: "convolution", 2: "dense", 1: "BatchNorm"}


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of a network that has arrays: path, kind, and shapes by path in Keras' order."""

    path: str
    kind: str
    shapes: dict[str, tuple[int, ...]]


def match(
    network: Network, image_shape: tuple[int, int, int], file: KerasFile
) -> tuple[dict[str, np.ndarray], bool]:
    """Returns the file's arrays by the network's paths, and whether shortcuts come first in it.

    Raises UserError, naming the first layer that differs, where they are not of one network.
    """
    layers = network_layers(network, image_shape)
    tried = [_pair(keras_order(layers, first), file) for first in (False, True)]
    for shortcut_first, (pairs, difference) in enumerate(tried):
        if not difference:
            arrays = {
                path: array
                for layer, found in pairs
                for path, array in zip(layer.shapes, found.arrays, strict=True)
            }
            return arrays, bool(shortcut_first)
    # The order that fits further is the one that was meant.
    _, difference = max(tried, key=lambda result: len(result[0]))
    raise UserError(f"{file.path} is of another network: {difference}")


def network_layers(network: Network, image_shape: tuple[int, int, int]) -> list[Layer]:
    """Returns the layers that have arrays, in the order of the computation."""
    known = dict(network.param_shapes + network.stat_shapes)
    layers = []
    for row in layer_rows(network, image_shape):
        paths = (f"{row.path}/{name}" for name in _ORDER)
        if shapes := {path: known[path] for path in paths if path in known}:
            kind = _KINDS[len(next(iter(shapes.values())))]
            layers.append(Layer(row.path, kind, shapes))
    return layers


def keras_order(layers: Sequence[Layer], shortcut_first: bool) -> list[Layer]:
    """Returns the layers as a model of Keras lists them.

    It sorts them by their distance from the output: the convolution and the BatchNorm of a shortcut
    stand beside the branch's last two, behind them or, where the shortcut is the first argument of
    the addition, before.
    """
    result = list(layers)
    for n, layer in enumerate(layers):
        if layer.path.endswith("/shortcut"):
            branch, shortcut = layers[n - 2 : n], layers[n : n + 2]
            first, second = (shortcut, branch) if shortcut_first else (branch, shortcut)
            result[n - 2 : n + 2] = [first[0], second[0], first[1], second[1]]
    return result


def _pair(layers: Sequence[Layer], file: KerasFile) -> tuple[list[tuple[Layer, FileLayer]], str]:
    """Returns the pairs up to the first that does not fit, and what does not; "" if all do."""
    pairs: list[tuple[Layer, FileLayer]] = []
    left = list(file.layers)
    for layer in layers:
        expected = f"{layer.kind} {_words(layer.shapes.values())} is expected"
        found = next((x for x in left if x.kind in ("", layer.kind)), None)
        if found is None:
            return pairs, f"for {layer.path} a {expected}, and the file has no more of them"
        shapes = [array.shape for array in found.arrays]
        if shapes != list(layer.shapes.values()):
            return pairs, f"its {found.name} is {_words(shapes)}, for {layer.path} a {expected}"
        left.remove(found)
        pairs.append((layer, found))
    if left:
        shapes = [array.shape for array in left[0].arrays]
        return pairs, f"its {left[0].name} {_words(shapes)} comes after the last layer expected"
    return pairs, ""


def _words(shapes: Iterable[tuple[int, ...]]) -> str:
    words = [str(list(shape)) for shape in shapes]
    return " ".join(words[:4]) + (f" and {len(words) - 4} more" if len(words) > 4 else "")


def check_epsilon(network: Network, file: KerasFile) -> None:
    """Raises UserError where the file says that its BatchNorms have another epsilon."""
    modules = nnx.iter_modules(network.module(*network.abstract()))
    ours = {module.epsilon for _, module in modules if isinstance(module, nnx.BatchNorm)}
    for layer in file.network or ():
        if layer["class_name"] == "BatchNormalization":
            theirs = layer["config"].get("epsilon", 1e-3)
            if ours != {theirs}:
                raise UserError(
                    f"{file.path} is of another network: the epsilon of its "
                    f"{layer['config']['name']} is {theirs}, here it is {', '.join(map(str, ours))}"
                )
