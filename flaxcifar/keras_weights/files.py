"""Reads Keras weight files as lists of layers, with h5py only.

Supports four formats: weights of Keras 2 (`.h5`), its whole model (`model_weights` in an `.h5`),
weights of Keras 3 (`.weights.h5`) and its whole model (`.keras`, a zip archive). Files are treated
as data: nothing in them is executed or instantiated.
"""

import dataclasses
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from flaxcifar.errors import UserError

# Supported layers of a whole model, and the settings that determine their output.
LAYERS = {
    "InputLayer": (),
    "Conv2D": (
        "filters kernel_size strides padding data_format dilation_rate groups activation use_bias"
    ).split(),
    "BatchNormalization": ("axis", "epsilon", "center", "scale"),
    "Dense": ("units", "activation", "use_bias"),
    "Activation": ("activation",),
    "ReLU": ("max_value", "negative_slope", "threshold"),
    "Softmax": (),
    "MaxPooling2D": ("pool_size", "strides", "padding", "data_format"),
    "AveragePooling2D": ("pool_size", "strides", "padding", "data_format"),
    "GlobalAveragePooling2D": ("data_format",),
    "Flatten": ("data_format",),
    "Add": (),
    # No effect in evaluation.
    "Dropout": ("rate",),
    "SpatialDropout2D": ("rate",),
    "GaussianNoise": ("stddev",),
}
# Keras 3 names layers in a file after their class and counts them; the first has no number.
_KINDS = {"conv2d": "convolution", "batch_normalization": "BatchNorm", "dense": "dense"}
_NUMBERED = re.compile(r"(?P<kind>.+?)(?:_(?P<number>\d+))?")
# No HDF5 filter compresses better than this.
_BEST_COMPRESSION = 1100


@dataclasses.dataclass(frozen=True, eq=False)
class FileLayer:
    """A layer with weights.

    Attributes:
      kind: "convolution", "BatchNorm" or "dense"; "" if the file does not say.
      arrays: float32 in Keras' order: kernel, bias; or gamma, beta, moving mean, moving variance.
    """

    name: str
    kind: str
    arrays: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class KerasFile:
    """The contents of a file.

    Attributes:
      ending: ".h5", ".weights.h5" or ".keras", by format, whatever the file is called.
      layers: in the order of the network; Keras 3 keeps this order only within a kind.
      network: the configs of all layers if the file holds a whole model, else None.
    """

    path: Path
    ending: str
    layers: tuple[FileLayer, ...]
    network: tuple[dict[str, Any], ...] | None


def import_h5py() -> ModuleType:
    """Imports h5py; raises UserError if it is not installed."""
    try:
        import h5py
    except ImportError:
        raise UserError('Keras files need h5py: pip install "flaxcifar[keras]"') from None
    return h5py


def read(path: Path) -> KerasFile:
    """Reads a file of any of the formats; its name does not matter.

    Raises:
      UserError: if the file is missing, damaged, or contains no Keras network.
    """
    h5py = import_h5py()
    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}")
    try:
        file = _read(path, h5py)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged or not a Keras file ({words})") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is damaged ({error})") from error
    if not file.layers:
        raise UserError(f"{path} contains no weights of a network")
    return file


def _read(path: Path, h5py: ModuleType) -> KerasFile:
    config, weights = _unzip(path) if zipfile.is_zipfile(path) else (None, path)
    if isinstance(weights, Path) and not h5py.is_hdf5(path):
        raise UserError("not a Keras file: neither HDF5 nor a complete .keras archive")
    with h5py.File(weights, "r") as file:
        group = file["model_weights"] if "model_weights" in file else file
        if group.file != file:
            raise UserError("model_weights is stored outside the file")
        if "layer_names" in group.attrs or "layer_names0" in group.attrs:
            ending, layers = ".h5", tuple(_in_order(group))
            config = file.attrs.get("model_config")
        else:
            ending, layers = ".weights.h5" if config is None else ".keras", _by_kind(group)
    network = None if config is None else _network(json.loads(config))
    return KerasFile(path, ending, layers, network)


def _unzip(path: Path) -> tuple[bytes, io.BytesIO]:
    with zipfile.ZipFile(path) as archive:
        return archive.read("config.json"), io.BytesIO(archive.read("model.weights.h5"))


def _in_order(group: Any) -> Iterator[FileLayer]:
    """Yields the layers of a Keras 2 file, which lists layers and weights in attributes."""
    for name in _strings(group, "layer_names"):
        weights = _strings(group[name], "weight_names")
        arrays = tuple(_array(group, group[name][weight]) for weight in weights)
        if arrays:
            yield FileLayer(name, "", arrays)


def _strings(group: Any, name: str) -> list[str]:
    """Returns a list of names, which Keras splits if it exceeds HDF5's limit."""
    split = (f"{name}{n}" for n in range(len(group.attrs)))
    parts = [part for part in (name, *split) if part in group.attrs]
    strings = [text for part in parts for text in group.attrs[part]]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in strings]


def _by_kind(group: Any) -> tuple[FileLayer, ...]:
    """Returns the layers of a Keras 3 file, whose names count the layers of each kind."""
    containers = [name for name in ("layers", "_layer_checkpoint_dependencies") if name in group]
    if not containers:
        raise UserError("an HDF5 file without Keras layers")
    layers = []
    for name, item in group[containers[0]].items():
        if "layers" in item:
            raise UserError(f"layer {name!r} is a nested network, which is not supported")
        found = item.get("vars", {})
        arrays = tuple(_array(group, found[key]) for key in sorted(found, key=int))
        if arrays:
            kind, number = _NUMBERED.fullmatch(name).group("kind", "number")
            layer = FileLayer(name, _KINDS.get(kind, kind), arrays)
            layers.append((kind, int(number or 0), layer))
    return tuple(layer for *_, layer in sorted(layers, key=lambda entry: entry[:2]))


def _array(group: Any, dataset: Any) -> np.ndarray:
    """Reads an array as float32."""
    stored = dataset.id.get_storage_size()
    if dataset.file != group.file or dataset.external or dataset.is_virtual:
        raise UserError(f"{dataset.name} is stored outside the file")
    if dataset.dtype.kind != "f":
        raise UserError(f"{dataset.name} is {dataset.dtype}, not floating point")
    if dataset.nbytes > _BEST_COMPRESSION * stored:
        raise UserError(f"{dataset.name} is damaged: most of it is missing")
    array = dataset[()].astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"{dataset.name} contains values that are not finite")
    return array


def _network(model: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Returns the configs of the layers; raises UserError for one that is not in `LAYERS`."""
    config = model["config"]
    layers = config["layers"] if isinstance(config, dict) else config
    for layer in layers:
        kind, name = layer["class_name"], layer["config"]["name"]
        if kind not in LAYERS:
            raise UserError(
                f"layer {name!r} is a {kind}, which is not supported (supported: "
                f"{', '.join(LAYERS)})"
            )
    return tuple(layers)
