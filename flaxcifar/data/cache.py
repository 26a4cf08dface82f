"""Cache of decoded datasets on disk.

An entry is a folder of four .npy files and `manifest.json`. Its key is the content of the files
that it was decoded from, or that of the arrays if the source does not name its files.
"""

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flaxcifar import atomic, console
from flaxcifar.data.dataset import Dataset, Split
from flaxcifar.data.on_disk import OnDisk
from flaxcifar.data.source import Source, content_key
from flaxcifar.errors import UserError

_STALE_SECONDS = 24 * 3600
_CHUNK = 2**22  # bytes hashed at a time


def cached(source: Source, cache_dir: str, memory_limit: float = math.inf) -> Dataset:
    """Returns a dataset from the cache; decodes it if the entry is missing or damaged.

    A source that does not name its files is always decoded.

    Args:
      cache_dir: the folder of the cache; "" is `flaxcifar` in $XDG_CACHE_HOME or ~/.cache.
      memory_limit: bytes. Larger images are `OnDisk`, others mapped into memory.

    Raises:
      UserError: the cache cannot be written, or the source cannot be decoded.
    """
    directory = _directory(cache_dir)
    with _writing(directory):
        (directory / "hashes").mkdir(parents=True, exist_ok=True)
        key = content_key(source, directory / "hashes")
    entry = _entry(directory, source, key) if key else None
    dataset = _read(entry, memory_limit) if entry else None
    if dataset is None:
        often = " (only once)" if key else ""
        with _writing(directory), console.working(f"decoding {source.name}{often}"):
            entry = _write(directory, source, key)
        dataset = _read(entry, memory_limit)
    if dataset is None:
        raise UserError(
            f"the cache entry {entry} was damaged while it was being written: make sure that no "
            "other program writes to this folder"
        )
    return dataset


@contextlib.contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Context manager: explains why the cache cannot be written."""
    try:
        yield
    except OSError as error:
        if error.filename and not Path(str(error.filename)).is_relative_to(directory):
            raise
        raise UserError(
            f"the cache in {directory} cannot be written ({error.strerror}): free some space or "
            "choose another folder with --config.data.cache_dir=DIR"
        ) from error


def _directory(cache_dir: str) -> Path:
    if cache_dir:
        return Path(cache_dir).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "flaxcifar"


def _entry(directory: Path, source: Source, key: str) -> Path:
    return directory / f"{re.sub(r'[^A-Za-z0-9]', '-', source.name)}-{key[:24]}"


def _arrays(dataset: Dataset) -> dict[str, np.ndarray | OnDisk]:
    splits = {"train": dataset.train, "test": dataset.test}
    images = {f"{name}_images": split.images for name, split in splits.items()}
    return images | {f"{name}_labels": split.labels for name, split in splits.items()}


def _read(entry: Path, memory_limit: float) -> Dataset | None:
    """Returns the dataset of an entry, or None if it is missing, incomplete or truncated."""
    try:
        manifest = json.loads((entry / "manifest.json").read_text(encoding="utf-8"))
        arrays = {}
        in_memory = sum(path.stat().st_size for path in entry.glob("*_images.npy")) <= memory_limit
        for name, (shape, dtype, size) in manifest.pop("arrays").items():
            path = entry / f"{name}.npy"
            array: np.ndarray | OnDisk
            if in_memory or name.endswith("labels"):
                array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            else:
                array = OnDisk(path)
            if [list(array.shape), str(array.dtype), path.stat().st_size] != [shape, dtype, size]:
                return None
            arrays[name] = array
        superclass_of = manifest.pop("superclass_of")
        return Dataset(
            train=Split(arrays["train_images"], np.array(arrays["train_labels"])),
            test=Split(arrays["test_images"], np.array(arrays["test_labels"])),
            class_names=tuple(manifest.pop("class_names")),
            superclass_of=None if superclass_of is None else np.array(superclass_of, np.int32),
            superclass_names=tuple(manifest.pop("superclass_names")),
            **manifest,
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _write(directory: Path, source: Source, key: str | None) -> Path:
    """Decodes a source into a new entry, which replaces a damaged one; returns the entry."""
    atomic.remove_leftovers(directory, _STALE_SECONDS)
    with atomic.new_folder(directory) as temporary:
        content = _fill(temporary, source)
        entry = _entry(directory, source, key or content)
        atomic.publish(temporary, entry, keep=lambda entry: _read(entry, math.inf) is not None)
    return entry


def _fill(folder: Path, source: Source) -> str:
    """Writes the arrays and the manifest of a decoded source; returns the manifest's SHA-256."""
    made: list[OnDisk] = []

    def empty(shape: tuple[int, int, int, int]) -> OnDisk:
        made.append(OnDisk.create(folder / f"images-{len(made)}", shape))
        return made[-1]

    dataset = source.decode(empty)
    arrays = _arrays(dataset)
    manifest = _manifest(dataset, arrays)
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        if isinstance(array, OnDisk):
            os.rename(array.path, path)
        else:
            np.save(path, array, allow_pickle=False)
        manifest["arrays"][name] = [array.shape, str(array.dtype), path.stat().st_size]
    for images in made:
        images.path.unlink(missing_ok=True)  # not used in the dataset
    text = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(text)
    return hashlib.sha256(text).hexdigest()


def _manifest(dataset: Dataset, arrays: dict[str, np.ndarray | OnDisk]) -> dict:
    """Returns the names, and the fingerprint of names and arrays."""
    superclass_of = dataset.superclass_of
    names = {
        "class_names": dataset.class_names,
        "superclass_of": None if superclass_of is None else superclass_of.tolist(),
        "superclass_names": dataset.superclass_names,
    }
    if dataset.validation_examples:
        names["validation_examples"] = dataset.validation_examples
    fingerprint = hashlib.sha256(json.dumps(names).encode())
    for key, array in arrays.items():
        fingerprint.update(f"{key} {array.dtype} {array.shape}".encode())
        count = max(1, _CHUNK // max(1, math.prod(array.shape[1:])))
        for start in range(0, len(array), count):
            fingerprint.update(np.ascontiguousarray(array[start : start + count]).data)
    return names | {"name": dataset.name, "fingerprint": fingerprint.hexdigest(), "arrays": {}}
