"""Converts weights between Keras files and workdirs."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxcifar import config, console, data
from flaxcifar.data.dataset import Dataset
from flaxcifar.data.normalization import Normalization, statistics
from flaxcifar.errors import RunError, UserError
from flaxcifar.inference.trained import Trained
from flaxcifar.keras_weights import files
from flaxcifar.keras_weights.compare import compare, import_keras
from flaxcifar.keras_weights.match import match
from flaxcifar.keras_weights.structure import check_structure
from flaxcifar.models.crcv import SIZES
from flaxcifar.training.networks import make_network
from flaxcifar.workdir.checkpoints import Checkpoints
from flaxcifar.workdir.run_folder import prepare

_COUNTERPARTS = ("vgg16", "resnet", "crcv")
_ENDINGS = (".weights.h5", ".keras", ".h5")
_INSTALL = 'pip install "flaxcifar[keras]"'


def read(
    path: Path,
    workdir: Path,
    settings: Any,
    normalization: Normalization | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Makes a workdir from the weights in a Keras file.

    If Keras is installed, its logits must equal flaxcifar's.

    Args:
      path: the Keras file.
      workdir: a new or empty folder.
      settings: a checked config with the model of the file.
      normalization: of the images the weights were trained on; by default computed from the
        training split, as the config says.
      class_names: by default the dataset's, or numbers if the dataset is missing.

    Raises:
      UserError: if the file, the model, the classes or the workdir do not fit. Nothing is written.
    """
    spec = _keras_spec(settings.model)
    if workdir.is_file() or workdir.is_dir() and any(workdir.iterdir()):
        raise UserError(f"{workdir} already exists: choose a new --workdir")

    def size(classes: int) -> int:
        shapes = jax.tree.leaves(make_network(settings, classes)[0].abstract())
        return sum(shape.size * shape.dtype.itemsize for shape in shapes)

    file = files.read(path, size)
    dense = [layer.arrays[0] for layer in file.layers if layer.arrays[0].ndim == 2]
    classes = dense[-1].shape[1] if dense else 1
    network, _ = make_network(settings, classes)
    arrays, shortcut_first = match(network, _image_shape(settings), file)
    check_structure(file, spec, classes)
    variables: Any = tuple({p: arrays[p] for p in shapes} for shapes in network.abstract())
    context = _context(settings, classes, normalization, class_names)
    trained = Trained(settings, network, variables, **context)
    mean, std = list(trained.normalization.mean), list(trained.normalization.std)
    console.say(
        f"{path}: {len(file.layers)} layers of {spec['name']}, {classes} classes; images are "
        f"normalized by mean {mean} and std {std}"
    )
    # Dropout layers have no weights, but Keras numbers them.
    spec |= {"dropout": 0.0} | ({"shortcut_first": True} if shortcut_first else {})
    _check_logits(file, spec, trained.in_float32())
    if file.network is None:
        console.say(
            f"{path}: weights match by shape; the file does not say activation, order, pooling, "
            "epsilon: evaluate the workdir to be sure"
        )
    _save(trained, workdir, path)
    console.say(f"evaluate it: python -m flaxcifar evaluate --workdir {workdir}")
    console.say(f"fine-tune it: python -m flaxcifar.main --config.init_from={workdir} ...")


def write(path: Path, workdir: str) -> None:
    """Writes the best checkpoint of a run as a Keras file; the file's ending gives the format.

    Raises:
      UserError: if the ending, the folder, the workdir or the model do not fit, or Keras is not
        installed.
      RunError: if Keras computes other logits. Neither leaves a file behind.
    """
    if not path.name.endswith(_ENDINGS):
        raise UserError(f"{path} must end in one of {', '.join(_ENDINGS)}")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {str(path.parent)!r} to write {path.name} to")
    trained = Trained.from_workdir(workdir).in_float32()
    spec, classes = _keras_spec(trained.config.model), len(trained.class_names)
    if import_keras() is None:
        raise UserError(f"writing Keras files needs Keras, which cannot be imported: {_INSTALL}")
    from flaxcifar.keras_weights.networks import write_model

    params, batch_stats = trained.variables
    shape = _image_shape(trained.config)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        model = write_model(temporary, {**params, **batch_stats}, spec, shape, classes)
        words, equal = compare(model, trained.network, trained.variables)
        console.say(words)
        if not equal:
            raise RunError(f"{path} was not written: Keras computes other logits than flaxcifar")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    mean, std = list(trained.normalization.mean), list(trained.normalization.std)
    console.say(f"{path}: {spec['name']}, {classes} classes, returns logits")
    console.say(f"its input is (images - {mean}) / ({std} + 1e-7), images from 0 to 255")


def _keras_spec(model: Any) -> dict[str, Any]:
    """Returns `config.model` as `networks.build` takes it."""
    spec = dict(model)
    if spec["name"] not in _COUNTERPARTS:
        known = ", ".join(_COUNTERPARTS)
        raise UserError(f"model {spec['name']!r} has no counterpart in Keras (these have: {known})")
    if spec["name"] == "crcv":
        spec["stages"] = SIZES[spec.pop("size", "slim")]
    return spec


def _image_shape(settings: Any) -> tuple[int, int, int]:
    return (settings.data.image_size, settings.data.image_size, 3)


def _context(
    settings: Any,
    classes: int,
    normalization: Normalization | None,
    class_names: Sequence[str] | None,
) -> dict[str, Any]:
    """Returns the normalization, class names and fingerprint; loads the dataset only if needed."""
    dataset, source = None, "--class_names"
    if normalization is None and settings.data.normalization == "unit":
        normalization = statistics(np.zeros(0), np.zeros(0), "unit")
    if normalization is None or class_names is None:
        dataset = _load_dataset(settings, required=normalization is None)
    if normalization is None:
        assert dataset is not None  # it is required
        images = dataset.train.images
        normalization = statistics(images, np.arange(len(images)), settings.data.normalization)
    if class_names is None:
        class_names = dataset.class_names if dataset else tuple(map(str, range(classes)))
        source = f"dataset {settings.data.name!r}"
    class_names = tuple(class_names)
    if len(class_names) != classes:
        raise UserError(
            f"the file's network has {classes} classes, {source} has {len(class_names)}: choose "
            "the dataset by --config.data.name or give the names by --class_names"
        )
    fits = dataset if dataset and len(dataset.class_names) == classes else None
    return {
        "normalization": normalization,
        "class_names": class_names,
        "fingerprint": fits.fingerprint if fits else None,
    }


def _load_dataset(settings: Any, required: bool) -> Dataset | None:
    try:
        return data.load(settings.data)
    except UserError as error:
        if required:
            raise UserError(f"{error}; or give the preprocessing by --mean and --std") from None
        console.say(f"{error}; classes are named by numbers")
        return None


def _check_logits(file: files.KerasFile, spec: dict[str, Any], trained: Trained) -> None:
    """Raises UserError if Keras is installed and computes other logits with the file."""
    if import_keras() is None:
        console.say(f"not compared with Keras, which cannot be imported: {_INSTALL}")
        return
    from flaxcifar.keras_weights.networks import read_model

    model = read_model(file, spec, _image_shape(trained.config), len(trained.class_names))
    words, equal = compare(model, trained.network, trained.variables)
    console.say(words)
    if not equal:
        raise UserError(
            f"{file.path} has the shapes of {spec['name']} but is of another network: activations, "
            "pools or the order of layers differ; nothing was written"
        )


def _save(trained: Trained, workdir: Path, path: Path) -> None:
    """Writes a workdir with the weights as its best checkpoint."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    record = {
        "epoch": 0,
        "history": [{"epoch": 0, "step": 0}],
        "config": config.to_json(trained.config),
        "normalization": trained.normalization.to_json(),
        "class_names": list(trained.class_names),
        "fingerprint": trained.fingerprint,
        "imported": {"file": path.name, "sha256": digest},
    }
    prepare(workdir)
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save_best(1, *trained.variables, record)
        checkpoints.wait()
