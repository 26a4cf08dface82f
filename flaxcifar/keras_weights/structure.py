"""Compares the layers of a whole Keras model with those of a network, without Keras.

Both become the operations that they compute in evaluation: an activation is an operation of its
own, whichever layer it is written in, and dropout is left out.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from flaxcifar.errors import UserError
from flaxcifar.keras_weights.architectures import logits
from flaxcifar.keras_weights.files import LAYERS, KerasFile

_NO_OPERATION = ("Dropout", "SpatialDropout2D", "GaussianNoise")
# Layers of the same weights differ in these by shape, which `match` compares.
_IN_SHAPES = ("filters", "kernel_size", "units", "activation")


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """An operation of a network.

    Attributes:
      kind: the class of a Keras layer.
      name: of the layer it is written in.
      settings: those that determine its output.
    """

    kind: str
    name: str
    settings: dict[str, Any]
    inputs: tuple["Operation", ...]

    @functools.cached_property
    def depth(self) -> int:
        """The number of operations on the longest path to it."""
        return 1 + max((x.depth for x in self.inputs), default=-1)

    @functools.cached_property
    def rank(self) -> int:
        """The number of dimensions of its output."""
        flat = self.kind in ("Flatten", "GlobalAveragePooling2D")
        return 2 if flat or any(x.rank == 2 for x in self.inputs) else 4


def check_structure(file: KerasFile, spec: Mapping[str, Any], classes: int) -> None:
    """Raises UserError if a whole model does not compute what the network of `spec` computes.

    Compares activations, the order of layers, pools, the epsilon of BatchNorms, and strides.
    """
    if file.network is None:
        return
    try:
        theirs = _in_order(_without_softmax(_of_file(file.network)))
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(f"{file.path} is damaged: its layers are not connected ({words})") from None
    ours = _in_order(logits(_Recorder(), _images(), spec, classes))
    for found, expected in zip_longest(theirs, ours):
        if difference := _difference(found, expected):
            raise UserError(f"{file.path} is of another network: {difference}; nothing was written")


def inputs_of(nodes: Any) -> Iterator[str]:
    """Yields the names of a layer's input layers, from `inbound_nodes` of Keras 2 or 3."""
    if isinstance(nodes, dict) and "keras_history" in nodes:
        yield nodes["keras_history"][0]
    elif isinstance(nodes, list) and nodes and isinstance(nodes[0], str):
        yield nodes[0]
    elif isinstance(nodes, list | dict):
        for node in nodes.values() if isinstance(nodes, dict) else nodes:
            yield from inputs_of(node)


class _Recorder:
    """Stands in for `keras.layers`: a layer returns the operation that it would compute."""

    def __getattr__(self, kind: str) -> Any:
        return lambda **config: (
            lambda x: _operation(kind, {"name": kind} | config, x if isinstance(x, list) else [x])
        )


def _images() -> Operation:
    return Operation("InputLayer", "images", {}, ())


def _of_file(network: Sequence[Mapping[str, Any]]) -> Operation:
    """Returns the last operation of a KerasFile's `network`."""
    x = images = _images()
    outputs = {}
    for layer in network:
        kind, config = layer["class_name"], layer["config"]
        if kind == "InputLayer":
            outputs[config["name"]] = images
            continue
        before = [outputs[name] for name in inputs_of(layer.get("inbound_nodes", ()))]
        x = outputs[config["name"]] = _operation(kind, config, before or [x])
    return x


def _operation(kind: str, config: Mapping[str, Any], inputs: Sequence[Operation]) -> Operation:
    """Returns the last operation of a layer."""
    name, defaults = config["name"], LAYERS[kind]
    settings = {key: _plain(config.get(key, default)) for key, default in defaults.items()}
    activation = {"Softmax": "softmax"}.get(kind, settings.get("activation"))
    if kind == "ReLU":
        activation = "relu" if settings == {**defaults} else f"relu {settings}"
    x = inputs[0]
    if kind not in (*_NO_OPERATION, "Activation", "ReLU", "Softmax"):
        kept = {key: value for key, value in settings.items() if key not in _IN_SHAPES}
        if "strides" in kept:
            kept["strides"] = kept["strides"] or settings.get("pool_size")
        if "axis" in kept:
            kept["axis"] %= x.rank
        x = Operation(kind, name, kept, tuple(inputs))
    if activation not in (None, "linear"):
        x = Operation("activation", name, {"activation": activation}, (x,))
    return x


def _plain(value: Any) -> Any:
    """Returns a setting as one number if it is the same for height and width."""
    if isinstance(value, list | tuple) and value and all(x == value[0] for x in value):
        return value[0]
    return value


def _without_softmax(output: Operation) -> Operation:
    return output.inputs[0] if output.settings == {"activation": "softmax"} else output


def _in_order(output: Operation) -> list[tuple[Operation, tuple[int, ...]]]:
    """Returns operations in order of computation, with the positions of their inputs.

    The order of a sum does not matter: the longer branch comes first.
    """
    found: list[tuple[Operation, tuple[int, ...]]] = []
    position: dict[Operation, int] = {}

    def visit(x: Operation) -> int:
        if x not in position:
            inputs = sorted(x.inputs, key=lambda y: -y.depth) if x.kind == "Add" else x.inputs
            before = tuple(visit(y) for y in inputs)
            position[x] = len(found)
            found.append((x, before))
        return position[x]

    visit(output)
    return found


def _difference(found: Any, expected: Any) -> str:
    """Returns how two entries of `_in_order` differ, or ""."""
    if found is None:
        return f"it ends before {_words(expected[0])}"
    if expected is None:
        return f"its {found[0].name} comes after the last layer expected"
    (theirs, their_inputs), (ours, our_inputs) = found, expected
    if theirs.kind != ours.kind:
        return f"its {theirs.name} is {_words(theirs)}, but {_words(ours)} is expected"
    for key, value in ours.settings.items():
        if theirs.settings[key] != value:
            return f"the {key} of its {theirs.name} is {theirs.settings[key]}, here it is {value}"
    return "" if their_inputs == our_inputs else f"its {theirs.name} has other inputs"


def _words(x: Operation) -> str:
    return f"activation {x.settings['activation']}" if x.kind == "activation" else x.kind
