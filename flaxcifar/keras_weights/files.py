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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from flaxcifar.errors import UserError

_FORMAT = {"data_format": "channels_last"}
_POOL = {"pool_size": 2, "strides": None, "padding": "valid"} | _FORMAT
# Supported layers of a whole model, and the settings that determine their output, with Keras'
# defaults; None where there is none.
LAYERS: dict[str, dict[str, Any]] = {
    "InputLayer": {},
    "Conv2D": {
        "filters": None,
        "kernel_size": None,
        "strides": 1,
        "padding": "valid",
        "dilation_rate": 1,
        "groups": 1,
        "activation": None,
        "use_bias": True,
    }
    | _FORMAT,
    "BatchNormalization": {"axis": -1, "epsilon": 1e-3, "center": True, "scale": True},
    "Dense": {"units": None, "activation": None, "use_bias": True},
    "Activation": {"activation": None},
    "ReLU": {"max_value": None, "negative_slope": 0.0, "threshold": 0.0},
    "Softmax": {},
    "MaxPooling2D": _POOL,
    "AveragePooling2D": _POOL,
    "GlobalAveragePooling2D": _FORMAT,
    "Flatten": _FORMAT,
    "Add": {},
    # No effect in evaluation.
    "Dropout": {"rate": None},
    "SpatialDropout2D": {"rate": None},
    "GaussianNoise": {"stddev": None},
}
# Keras 3 names layers in a file after their class and counts them; the first has no number.
_KINDS = {"conv2d": "convolution", "batch_normalization": "BatchNorm", "dense": "dense"}
_NUMBERED = re.compile(r"(?P<kind>.+?)(?:_(?P<number>\d+))?")
# No HDF5 filter compresses better than this.
_BEST_COMPRESSION = 1100
# Files may hold weights in float64, and three more arrays for each: of an optimizer, or averages.
_FILE_PER_WEIGHTS = 8
_OVERHEAD = 2**20  # bytes of a file that are not weights
_MOST_CONFIG = 2**24  # bytes
_MOST_CLASSES = 2**16

# From a number of classes to the bytes of a network's weights in float32.
Size = Callable[[int], int]


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


def read(path: Path, size: Size) -> KerasFile:
    """Reads a file of any of the formats; its name does not matter.

    Args:
      size: of the expected network. A file that needs far more memory is refused unread.

    Raises:
      UserError: if the file is missing, damaged, too large, or contains no Keras network.
    """
    h5py = import_h5py()
    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}")
    try:
        file = _read(path, size, h5py)
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


def _read(path: Path, size: Size, h5py: ModuleType) -> KerasFile:
    config, weights = _unzip(path, size) if zipfile.is_zipfile(path) else (None, path)
    if isinstance(weights, Path) and not h5py.is_hdf5(path):
        raise UserError("not a Keras file: neither HDF5 nor a complete .keras archive")
    with h5py.File(weights, "r") as file:
        group = file["model_weights"] if "model_weights" in file else file
        if group.file != file:
            raise UserError("model_weights is stored outside the file")
        if "layer_names" in group.attrs or "layer_names0" in group.attrs:
            ending, found = ".h5", list(_in_order(group))
            config = file.attrs.get("model_config")
        else:
            ending, found = ".weights.h5" if config is None else ".keras", _by_kind(group)
        datasets = [dataset for *_, datasets in found for dataset in datasets]
        columns = [dataset.shape[1] for dataset in datasets if dataset.ndim == 2]
        _check_size("its weights", sum(dataset.nbytes for dataset in datasets), columns, size)
        layers = tuple(
            FileLayer(name, kind, tuple(map(_values, stored))) for name, kind, stored in found
        )
    network = None if config is None else _network(json.loads(config))
    return KerasFile(path, ending, layers, network)


def _unzip(path: Path, size: Size) -> tuple[bytes, io.BytesIO]:
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo("config.json").file_size > _MOST_CONFIG:
            raise UserError(f"its config.json takes more than {_MOST_CONFIG:,} bytes")
        config, weights = archive.read("config.json"), archive.getinfo("model.weights.h5")
        network = _network(json.loads(config))
        units = [x["config"]["units"] for x in network if x["class_name"] == "Dense"]
        _check_size(f"its {weights.filename}", weights.file_size, units, size)
        return config, io.BytesIO(archive.read(weights))


def _check_size(what: str, taken: int, columns: Sequence[int], size: Size) -> None:
    """Raises UserError if a part of the file is too large for the network.

    Args:
      taken: bytes of the part.
      columns: of the dense layers, in order: the last one's are the classes.
    """
    classes = columns[-1] if columns else 1
    if not 1 <= classes <= _MOST_CLASSES:
        raise UserError(f"it must have 1 to {_MOST_CLASSES:,} classes, got {classes:,}")
    if taken > _FILE_PER_WEIGHTS * size(classes) + _OVERHEAD:
        raise UserError(
            f"{what} would take {taken / 1e6:,.0f} MB, but the weights of the model in the config "
            f"take {size(classes) / 1e6:,.3g} MB: it is of another network"
        )


# Name, kind and datasets of a layer.
_Found = tuple[str, str, list[Any]]


def _in_order(group: Any) -> Iterator[_Found]:
    """Yields the layers of a Keras 2 file, which lists layers and weights in attributes."""
    for name in _strings(group, "layer_names"):
        weights = _strings(group[name], "weight_names")
        if weights:
            yield name, "", [_checked(group, group[name][weight]) for weight in weights]


def _strings(group: Any, name: str) -> list[str]:
    """Returns a list of names, which Keras splits if it exceeds HDF5's limit."""
    split = (f"{name}{n}" for n in range(len(group.attrs)))
    parts = [part for part in (name, *split) if part in group.attrs]
    strings = [text for part in parts for text in group.attrs[part]]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in strings]


def _by_kind(group: Any) -> list[_Found]:
    """Returns the layers of a Keras 3 file, whose names count the layers of each kind."""
    containers = [name for name in ("layers", "_layer_checkpoint_dependencies") if name in group]
    if not containers:
        raise UserError("an HDF5 file without Keras layers")
    layers = []
    for name, item in group[containers[0]].items():
        if "layers" in item:
            raise UserError(f"layer {name!r} is a nested network, which is not supported")
        found = item.get("vars", {})
        datasets = [_checked(group, found[key]) for key in sorted(found, key=int)]
        if datasets:
            numbered = _NUMBERED.fullmatch(name)
            if numbered is None:
                raise UserError(f"layer {name!r} has a line break in its name")
            kind, number = numbered.group("kind", "number")
            layers.append((kind, int(number or 0), (name, _KINDS.get(kind, kind), datasets)))
    return [layer for *_, layer in sorted(layers, key=lambda entry: entry[:2])]


def _checked(group: Any, dataset: Any) -> Any:
    """Returns a dataset of floating-point numbers in the file; raises UserError for any other."""
    stored = dataset.id.get_storage_size()
    if dataset.file != group.file or dataset.external or dataset.is_virtual:
        raise UserError(f"{dataset.name} is stored outside the file")
    if dataset.dtype.kind != "f":
        raise UserError(f"{dataset.name} is {dataset.dtype}, not floating point")
    if dataset.nbytes > _BEST_COMPRESSION * stored:
        raise UserError(f"{dataset.name} is damaged: most of it is missing")
    return dataset


def _values(dataset: Any) -> np.ndarray:
    """Reads an array as float32."""
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
