"""Weight files of Keras as lists of layers, read with h5py alone.

Four layouts: weights in HDF5 as Keras 2 wrote them (`.h5`), the whole model around them
(`model_weights` in an `.h5`), weights of Keras 3 (`.weights.h5`), and its whole model (`.keras`, a
zip archive). All of it is data: no object is made of what a file says.
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

# The layers of a whole model that are understood, and what of each determines its output.
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
    # They do nothing in evaluation.
    "Dropout": ("rate",),
    "SpatialDropout2D": ("rate",),
    "GaussianNoise": ("stddev",),
}
# Keras 3 calls the layers of a file after their classes; the first has no number.
_KINDS = {"conv2d": "convolution", "batch_normalization": "BatchNorm", "dense": "dense"}
_NUMBERED = re.compile(r"(?P<kind>.+?)(?:_(?P<number>\d+))?")
# No filter of HDF5 makes arrays smaller than this.
_BEST_COMPRESSION = 1100


@dataclasses.dataclass(frozen=True, eq=False)
class FileLayer:
    """A layer that has weights.

    Attributes:
      kind: "convolution", "BatchNorm" or "dense"; "" where the file does not say.
      arrays: in Keras' order: kernel, bias; gamma, beta, moving mean, moving variance.
    """

    name: str
    kind: str
    arrays: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class KerasFile:
    """What a file holds.

    Attributes:
      ending: of the names of such files: ".h5", ".weights.h5" or ".keras".
      layers: in the order of the network; in a file of Keras 3, only those of one kind are.
      network: the configs of all layers where the file holds the whole model, else None.
    """

    path: Path
    ending: str
    layers: tuple[FileLayer, ...]
    network: tuple[dict[str, Any], ...] | None


def import_h5py() -> ModuleType:
    """Returns h5py; raises UserError where it is not installed."""
    try:
        import h5py
    except ImportError:
        raise UserError('Keras files need h5py: pip install "flaxcifar[keras]"') from None
    return h5py


def read(path: Path) -> KerasFile:
    """Returns the layers of a file, whatever its name ends in.

    Raises UserError where it is missing, damaged, or holds no network of Keras.
    """
    h5py = import_h5py()
    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}")
    try:
        config, weights = _unzip(path) if zipfile.is_zipfile(path) else (None, path)
        if isinstance(weights, Path) and not h5py.is_hdf5(path):
            raise UserError("no Keras file, neither HDF5 nor a whole .keras archive")
        with h5py.File(weights, "r") as file:
            group = file["model_weights"] if "model_weights" in file else file
            if group.file != file:
                raise UserError("model_weights is not in the file itself")
            if "layer_names" in group.attrs or "layer_names0" in group.attrs:
                ending, layers = ".h5", tuple(_in_order(group))
                config = file.attrs.get("model_config")
            else:
                ending, layers = ".weights.h5" if config is None else ".keras", _by_kind(group)
        network = None if config is None else _network(json.loads(config))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged or no file of Keras ({words})") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is damaged ({error})") from error
    if not layers:
        raise UserError(f"{path} holds no weights of a network")
    return KerasFile(path, ending, layers, network)


def _unzip(path: Path) -> tuple[bytes, io.BytesIO]:
    with zipfile.ZipFile(path) as archive:
        return archive.read("config.json"), io.BytesIO(archive.read("model.weights.h5"))


def _in_order(group: Any) -> Iterator[FileLayer]:
    """Yields the layers of Keras 2's layout, which lists them and their weights in attributes."""
    for name in _strings(group, "layer_names"):
        weights = _strings(group[name], "weight_names")
        arrays = tuple(_array(group, group[name][weight]) for weight in weights)
        if arrays:
            yield FileLayer(name, "", arrays)


def _strings(group: Any, name: str) -> list[str]:
    """Returns a list of names, which Keras splits where HDF5 has no room for it."""
    split = (f"{name}{n}" for n in range(len(group.attrs)))
    parts = [part for part in (name, *split) if part in group.attrs]
    strings = [text for part in parts for text in group.attrs[part]]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in strings]


def _by_kind(group: Any) -> tuple[FileLayer, ...]:
    """Returns the layers of Keras 3's layout, whose names count those of one kind."""
    containers = [name for name in ("layers", "_layer_checkpoint_dependencies") if name in group]
    if not containers:
        raise UserError("HDF5, but no layers of Keras in it")
    layers = []
    for name, item in group[containers[0]].items():
        if "layers" in item:
            raise UserError(f"layer {name!r} is a network in the network, which is not read")
        found = item.get("vars", {})
        arrays = tuple(_array(group, found[key]) for key in sorted(found, key=int))
        if arrays:
            kind, number = _NUMBERED.fullmatch(name).group("kind", "number")
            layer = FileLayer(name, _KINDS.get(kind, kind), arrays)
            layers.append((kind, int(number or 0), layer))
    return tuple(layer for *_, layer in sorted(layers, key=lambda entry: entry[:2]))


def _array(group: Any, dataset: Any) -> np.ndarray:
    """Returns an array of the file, float32."""
    stored = dataset.id.get_storage_size()
    if dataset.file != group.file or dataset.external or dataset.is_virtual:
        raise UserError(f"{dataset.name} is not in the file itself")
    if dataset.dtype.kind != "f":
        raise UserError(f"{dataset.name} is {dataset.dtype}, not floating point")
    if dataset.nbytes > _BEST_COMPRESSION * stored:
        raise UserError(f"{dataset.name} is damaged: most of it is missing")
    array = dataset[()].astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"{dataset.name} has numbers that are not finite")
    return array


def _network(model: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Returns the layers' configs; raises UserError for one that is none of `LAYERS`."""
    config = model["config"]
    layers = config["layers"] if isinstance(config, dict) else config
    for layer in layers:
        kind, name = layer["class_name"], layer["config"]["name"]
        if kind not in LAYERS:
            raise UserError(
                f"layer {name!r} is a {kind}, which no network here has (there are: "
                f"{', '.join(LAYERS)})"
            )
    return tuple(layers)
