"""Decoded datasets on disk, keyed by the content of what they were decoded from.

An entry is a folder of four .npy files and `manifest.json`.
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
_CHUNK = 2**22  # bytes that are hashed at a time


def cached(source: Source, cache_dir: str, most: float = math.inf) -> Dataset:
    """Returns the dataset; decodes and stores it first where it is not yet there.

    Its images are mapped into memory, or `OnDisk` where they are more than `most` bytes. cache_dir
    "" is `flaxcifar` in $XDG_CACHE_HOME or ~/.cache. A damaged entry is written anew. Raises
    UserError where the folder cannot be written, and whatever decoding raises.
    """
    directory = _directory(cache_dir)
    with _writing(directory):
        (directory / "hashes").mkdir(parents=True, exist_ok=True)
        key = content_key(source, directory / "hashes")
    entry = directory / f"{re.sub(r'[^A-Za-z0-9]', '-', source.name)}-{key[:24]}"
    dataset = _read(entry, most)
    if dataset is None:
        with _writing(directory), console.working(f"decoding {source.name}, once"):
            _write(entry, source)
        dataset = _read(entry, most)
    if dataset is None:
        raise UserError(f"the cache entry {entry} does not last: does something else write there?")
    return dataset


@contextlib.contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.filename and not Path(str(error.filename)).is_relative_to(directory):
            raise
        raise UserError(
            f"the cache in {directory} cannot be written ({error.strerror}): free some space there "
            "or choose another folder with --config.data.cache_dir=DIR"
        ) from error


def _directory(cache_dir: str) -> Path:
    if cache_dir:
        return Path(cache_dir).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "flaxcifar"


def _arrays(dataset: Dataset) -> dict[str, np.ndarray | OnDisk]:
    splits = {"train": dataset.train, "test": dataset.test}
    images = {f"{name}_images": split.images for name, split in splits.items()}
    return images | {f"{name}_labels": split.labels for name, split in splits.items()}


def _read(entry: Path, most: float) -> Dataset | None:
    """Returns the dataset of the entry; None where it is missing, incomplete or cut short."""
    try:
        manifest = json.loads((entry / "manifest.json").read_text(encoding="utf-8"))
        arrays = {}
        in_memory = sum(path.stat().st_size for path in entry.glob("*_images.npy")) <= most
        for name, (shape, dtype, size) in manifest.pop("arrays").items():
            path = entry / f"{name}.npy"
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


def _write(entry: Path, source: Source) -> None:
    """Decodes the dataset and stores it, with its fingerprint, whatever lay at `entry` before."""
    atomic.remove_leftovers(entry.parent, _STALE_SECONDS)
    with atomic.new_folder(entry.parent) as temporary:
        _fill(temporary, source)
        atomic.publish(temporary, entry, keep=lambda entry: _read(entry, math.inf) is not None)


def _fill(folder: Path, source: Source) -> None:
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
        images.path.unlink(missing_ok=True)  # of a split that the dataset does not have
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def _manifest(dataset: Dataset, arrays: dict[str, np.ndarray | OnDisk]) -> dict:
    """Returns all but the arrays, and the fingerprint of everything."""
    superclass_of = dataset.superclass_of
    words = {
        "class_names": dataset.class_names,
        "superclass_of": None if superclass_of is None else superclass_of.tolist(),
        "superclass_names": dataset.superclass_names,
    }
    fingerprint = hashlib.sha256(json.dumps(words).encode())
    for name, array in arrays.items():
        fingerprint.update(f"{name} {array.dtype} {array.shape}".encode())
        count = max(1, _CHUNK // max(1, math.prod(array.shape[1:])))
        for start in range(0, len(array), count):
            fingerprint.update(np.ascontiguousarray(array[start : start + count]))
    return words | {"name": dataset.name, "fingerprint": fingerprint.hexdigest(), "arrays": {}}
