"""CIFAR-10 and CIFAR-100 from their official python archives, or else from TFDS.

Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009;
https://www.cs.toronto.edu/~kriz/cifar.html. The archives are read without TensorFlow.
"""

import _codecs
import gzip
import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from flaxcifar.data.dataset import Dataset, Split, superclasses
from flaxcifar.data.images import resize_images
from flaxcifar.data.source import Empty, Source
from flaxcifar.data.sources import SOURCES
from flaxcifar.data.sources.tfds import Download, tfds_source
from flaxcifar.errors import UserError

# As published: {dataset: (archive, its folder)}, then the MD5 of the files. Mirrors pack
# the same files again, so the archive's own MD5 is not compared.
_PLACES = {
    "cifar10": ("cifar-10-python.tar.gz", "cifar-10-batches-py"),
    "cifar100": ("cifar-100-python.tar.gz", "cifar-100-python"),
}
FILE_MD5 = {
    "cifar10": {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
    "cifar100": {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
}
# Both archives unpack to 186 MB; of a larger one, no more is read.
_MOST_BYTES = 2**28
_AGAIN = "Download it again from https://www.cs.toronto.edu/~kriz/cifar.html"


@SOURCES.register
def cifar10(directory: str, image_size: int) -> Source | Download:
    """10 classes, 50,000 + 10,000 images."""
    return _find("cifar10", directory, image_size)


@SOURCES.register
def cifar100(directory: str, image_size: int) -> Source | Download:
    """100 classes in 20 superclasses, 50,000 + 10,000 images."""
    return _find("cifar100", directory, image_size)


def _find(name: str, directory: str, image_size: int) -> Source | Download:
    """Looks for the archive, then for its extracted folder, at `directory` or inside it."""
    archive, folder = _PLACES[name]
    given = Path(directory).expanduser()
    recipe = f"{name} python, {image_size} pixels"
    for path in (given, given / archive) if directory else ():
        if path.name == archive and path.is_file():
            decode = partial(_from_archive, name, path, image_size)
            return Source(name, recipe, decode, path.parent, (archive,))
    for path in (given, given / folder) if directory else ():
        if path.name == folder and path.is_dir():
            decode = partial(_from_folder, name, path, image_size)
            return Source(name, recipe, decode, path, tuple(FILE_MD5[name]))
    return tfds_source(name, directory, image_size)


def _from_archive(name: str, path: Path, image_size: int, _: Empty) -> Dataset:
    """Decodes an archive in memory: extracting it would let members choose their paths."""
    folder, expected = _PLACES[name][1], FILE_MD5[name]
    files = {}
    try:
        with gzip.open(path) as packed:
            content = packed.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise UserError(f"{path} unpacks to more than {_MOST_BYTES:,} bytes. {_AGAIN}")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                place, file = member.name.removeprefix("./").rpartition("/")[::2]
                stored = tar.extractfile(member) if member.isfile() else None
                if stored and place == folder and file in expected:
                    files[file] = _checked(path / file, stored, expected[file])
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        words = " ".join(str(error).split())
        raise UserError(f"{path} is damaged or incomplete ({words}). {_AGAIN}") from error
    if missing := ", ".join(sorted(expected.keys() - files)):
        raise UserError(f"{path} is incomplete: {folder}/{missing} is missing. {_AGAIN}")
    return _DATASETS[name](files, image_size)


def _from_folder(name: str, folder: Path, image_size: int, _: Empty) -> Dataset:
    files = {}
    for file, md5 in FILE_MD5[name].items():
        with (folder / file).open("rb") as content:
            files[file] = _checked(folder / file, content, md5)
    return _DATASETS[name](files, image_size)


def _checked(path: Path, file: IO[bytes], expected: str) -> dict[str, Any]:
    """Returns what a published file unpickles to; raises UserError for another file."""
    content = file.read(_MOST_BYTES)
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 != expected:
        raise UserError(
            f"{path} is damaged or incomplete: its MD5 must be {expected}, got {md5}. {_AGAIN}"
        )
    return _unpickle(content, path)


class _Unpickler(pickle.Unpickler):
    """Reads NumPy arrays and plain values only: other pickles could run code."""

    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 moved the function that rebuilds an array from numpy.core to numpy._core.
        reconstruct = np.empty(0).__reduce__()[0]
        allowed = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("numpy.core.multiarray", "_reconstruct"): reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): reconstruct,
            ("_codecs", "encode"): _codecs.encode,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return allowed[module, name]


def _unpickle(content: bytes, path: Path) -> dict[str, Any]:
    try:
        return _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} is not a CIFAR file: {error}") from error


def _cifar10(files: dict[str, dict], image_size: int) -> Dataset:
    batches = [files[f"data_batch_{i}"] for i in range(1, 6)]
    return Dataset(
        "cifar10",
        _split(batches, "labels", image_size),
        _split([files["test_batch"]], "labels", image_size),
        tuple(files["batches.meta"]["label_names"]),
    )


def _cifar100(files: dict[str, dict], image_size: int) -> Dataset:
    meta, train, test = files["meta"], files["train"], files["test"]
    class_names = tuple(meta["fine_label_names"])
    fine, coarse = (np.array(train[key] + test[key]) for key in ("fine_labels", "coarse_labels"))
    return Dataset(
        "cifar100",
        _split([train], "fine_labels", image_size),
        _split([test], "fine_labels", image_size),
        class_names,
        superclasses(fine, coarse, len(class_names)),
        tuple(meta["coarse_label_names"]),
    )


_DATASETS: dict[str, Callable[[dict, int], Dataset]] = {"cifar10": _cifar10, "cifar100": _cifar100}


def _split(batches: list[dict], key: str, image_size: int) -> Split:
    """Concatenates batches; a row of "data" is a 32x32 plane each of red, green and blue."""
    planes = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([batch[key] for batch in batches]).astype(np.int32)
    return Split(resize_images(planes.transpose(0, 2, 3, 1), image_size), labels)
