"""Matches the layers of a Keras file with those of a network, by order and shapes."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from flaxcifar.errors import UserError
from flaxcifar.keras_weights.files import FileLayer, KerasFile
from flaxcifar.models.network import Network
from flaxcifar.models.summary import layer_rows

# Keras' order of a layer's arrays, under flaxcifar's names.
_ORDER = ("kernel", "scale", "bias", "mean", "var")
# By the number of dimensions of the first array.
_KINDS = {4: "convolution", 2: "dense", 1: "BatchNorm"}


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer with weights: path, kind, and the shapes of its arrays by path, in Keras' order."""

    path: str
    kind: str
    shapes: dict[str, tuple[int, ...]]


def match(
    network: Network, image_shape: tuple[int, int, int], file: KerasFile
) -> tuple[dict[str, np.ndarray], bool]:
    """Returns the file's arrays by the network's paths, and whether shortcuts come first.

    Raises:
      UserError: if the file is of another network; the message names the first difference.
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
    # Report the order in which more layers match.
    _, difference = max(tried, key=lambda result: len(result[0]))
    raise UserError(f"{file.path} is of another network: {difference}")


def network_layers(network: Network, image_shape: tuple[int, int, int]) -> list[Layer]:
    """Returns the layers with weights, in order of computation."""
    known = dict(network.param_shapes + network.stat_shapes)
    layers = []
    for row in layer_rows(network, image_shape):
        paths = (f"{row.path}/{name}" for name in _ORDER)
        if shapes := {path: known[path] for path in paths if path in known}:
            kind = _KINDS[len(next(iter(shapes.values())))]
            layers.append(Layer(row.path, kind, shapes))
    return layers


def keras_order(layers: Sequence[Layer], shortcut_first: bool) -> list[Layer]:
    """Returns the layers in the order of a Keras model.

    Keras sorts them by distance from the output. This interleaves the convolution and BatchNorm of
    a shortcut with the last two layers of the branch: after them or, if the shortcut is the first
    argument of the addition, before them.
    """
    result = list(layers)
    for n, layer in enumerate(layers):
        if layer.path.endswith("/shortcut"):
            branch, shortcut = layers[n - 2 : n], layers[n : n + 2]
            first, second = (shortcut, branch) if shortcut_first else (branch, shortcut)
            result[n - 2 : n + 2] = [first[0], second[0], first[1], second[1]]
    return result


def _pair(layers: Sequence[Layer], file: KerasFile) -> tuple[list[tuple[Layer, FileLayer]], str]:
    """Returns the pairs before the first mismatch, and its description or ""."""
    pairs: list[tuple[Layer, FileLayer]] = []
    left = list(file.layers)
    for layer in layers:
        expected = f"{layer.kind} {_words(layer.shapes.values())} is expected"
        found = next((x for x in left if x.kind in ("", layer.kind)), None)
        if found is None:
            return pairs, f"for {layer.path} a {expected}, but the file has no more of them"
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
