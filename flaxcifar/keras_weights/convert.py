"""Reads networks from Keras files, and writes them for Keras."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxcifar import config, console, data
from flaxcifar.config import to_json
from flaxcifar.data.normalization import Normalization, statistics
from flaxcifar.errors import RunError, UserError
from flaxcifar.keras_weights import files
from flaxcifar.keras_weights.compare import (
    compare,
    import_keras,
    keras_spec,
    read_model,
    write_model,
)
from flaxcifar.keras_weights.match import check_epsilon, match
from flaxcifar.models.network import Network
from flaxcifar.training.networks import make_network
from flaxcifar.workdir.checkpoints import Checkpoints, read_best
from flaxcifar.workdir.run_folder import prepare

_ENDINGS = (".weights.h5", ".keras", ".h5")
_INSTALL = 'pip install "flaxcifar[keras]"'


def read(
    path: Path,
    workdir: Path,
    settings: Any,
    normalization: Normalization | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Makes `workdir`, which must be new or empty, of the weights in a Keras file.

    Args:
      settings: a checked config, whose model is that of the file.
      normalization: what the weights were trained with; by default what the config says, of the
        whole training split.
      class_names: by default the dataset's, or numbers where it is not at hand.

    Raises UserError where the file, the model, the classes or the workdir do not fit; nothing was
    written then.
    """
    spec = keras_spec(settings.model)
    if workdir.is_file() or workdir.is_dir() and any(workdir.iterdir()):
        raise UserError(f"{workdir} is there already: choose a new --workdir")
    file = files.read(path)
    dense = [layer.arrays[0] for layer in file.layers if layer.arrays[0].ndim == 2]
    classes = dense[-1].shape[1] if dense else 1
    network, shape = _network(settings, classes)
    arrays, shortcut_first = match(network, shape, file)
    check_epsilon(network, file)
    normalization, names, fingerprint = _context(settings, classes, normalization, class_names)
    console.say(
        f"{path}: {len(file.layers)} layers of {spec['name']}, {classes} classes; images are "
        f"normalised by mean {list(normalization.mean)} and deviation {list(normalization.std)}"
    )
    if import_keras() is None:
        console.say(f"not compared with Keras, which cannot be imported: {_INSTALL}")
    else:
        # Layers of dropout have no weights, but Keras numbers them.
        spec |= {"dropout": 0.0} | ({"shortcut_first": True} if shortcut_first else {})
        model = read_model(file, spec, shape, classes)
        words, equal = compare(model, network, _split(network, arrays))
        console.say(words)
        if not equal:
            raise UserError(
                f"{path} is of another network than {spec['name']} here, although the shapes "
                "agree: activations, pools or the order of layers must differ; nothing was written"
            )
    record = {
        "epoch": 0,
        "history": [{"epoch": 0, "step": 0}],
        "config": to_json(settings),
        "normalization": normalization.to_json(),
        "class_names": list(names),
        "fingerprint": fingerprint,
        "imported": {"file": path.name, "sha256": _sha256(path)},
    }
    prepare(workdir)
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save_best(1, *_split(network, arrays), record)
        checkpoints.wait()
    console.say(f"evaluate it: python -m flaxcifar evaluate --workdir {workdir}")
    console.say(f"fine-tune it: python -m flaxcifar.main --config.init_from={workdir} ...")


def write(path: Path, workdir: str) -> None:
    """Writes the best checkpoint of a run as a Keras file, by the name's ending.

    Raises UserError where that is not possible, RunError where Keras computes other logits; nothing
    was written then.
    """
    if not path.name.endswith(_ENDINGS):
        raise UserError(f"{path} must end in one of {', '.join(_ENDINGS)}")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {str(path.parent)!r} to write {path.name} to")
    best, record = read_best(workdir)
    settings = config.from_json(record["config"])
    spec, classes = keras_spec(settings.model), len(record["class_names"])
    if import_keras() is None:
        raise UserError(f"Keras files are written by Keras, which cannot be imported: {_INSTALL}")
    network, shape = _network(settings, classes)
    arrays = {**best["params"], **best["batch_stats"]}
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        model = write_model(temporary, arrays, spec, shape, classes)
        words, equal = compare(model, network, (best["params"], best["batch_stats"]))
        console.say(words)
        if not equal:
            raise RunError(f"Keras does not compute what flaxcifar does; {path} was not written")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    normalization = Normalization.from_json(record["normalization"])
    mean, std = list(normalization.mean), list(normalization.std)
    console.say(f"{path}: {spec['name']}, {classes} classes, which returns logits")
    console.say(f"it takes (images - {mean}) / ({std} + 1e-7) of images from 0 to 255")


def _network(settings: Any, classes: int) -> tuple[Network, tuple[int, int, int]]:
    """Returns the config's model, in float32 whatever its precision, and its images' shape."""
    exact = config.from_json(to_json(settings) | {"precision": "float32"})
    size = settings.data.image_size
    return make_network(exact, classes)[0], (size, size, 3)


def _split(network: Network, arrays: dict[str, np.ndarray]) -> tuple[dict, dict]:
    """Returns the parameters and the statistics."""
    kinds = (network.param_shapes, network.stat_shapes)
    params, batch_stats = ({path: arrays[path] for path, _ in kind} for kind in kinds)
    return params, batch_stats


def _context(
    settings: Any,
    classes: int,
    normalization: Normalization | None,
    class_names: Sequence[str] | None,
) -> tuple[Normalization, Sequence[str], str | None]:
    """Returns the preprocessing, the classes' names and the dataset's fingerprint, if it is known.

    The dataset is loaded only where something is not given.
    """
    if normalization is None and settings.data.normalization == "unit":
        normalization = statistics(np.zeros(0), np.zeros(0), "unit")
    dataset = None
    if normalization is None or class_names is None:
        try:
            dataset = data.load(settings.data)
        except UserError as error:
            if normalization is None:
                raise UserError(f"{error}; or give the preprocessing by --mean and --std") from None
            console.say(f"{error}; the classes are called by numbers")
    if normalization is None:
        images = dataset.train.images
        normalization = statistics(images, np.arange(len(images)), settings.data.normalization)
    source = "--class_names"
    if class_names is None:
        class_names = dataset.class_names if dataset else tuple(map(str, range(classes)))
        source = f"dataset {settings.data.name!r}"
    if len(class_names) != classes:
        raise UserError(
            f"the file's network has {classes} classes, {source} has {len(class_names)}: choose "
            "the dataset by --config.data.name or give the names by --class_names"
        )
    fits = dataset is not None and len(dataset.class_names) == classes
    return normalization, class_names, dataset.fingerprint if fits else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
