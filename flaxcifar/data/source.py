"""A dataset that was found but not decoded yet, and the hash of its content."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flaxcifar import atomic
from flaxcifar.data.dataset import Dataset
from flaxcifar.data.on_disk import OnDisk
from flaxcifar.errors import UserError

# Returns images of a shape [N, H, W, 3] that are to be filled; they take no memory.
Empty = Callable[[tuple[int, int, int, int]], np.ndarray | OnDisk]

# Changes whenever the layout of cache entries does.
_FORMAT = 1


@dataclass(frozen=True)
class Source:
    """`decode` reads the `files` (paths under `root`) and nothing else.

    Where they may be more than memory holds, it fills images that its argument makes.

    recipe: words that change whenever the same files would be decoded to other arrays.
    """

    name: str
    recipe: str
    decode: Callable[[Empty], Dataset]
    root: Path = Path()
    files: tuple[str, ...] = ()


def content_key(source: Source, notes: Path) -> str:
    """Returns the SHA-256, hex, of the recipe, the files' names and all they hold.

    Reading them takes seconds, so it is noted, in the folder `notes`, under what `stat` says of
    them and done once. Raises UserError for a file that cannot be read.
    """
    try:
        note = notes / _hash(source, _stat, str(source.root.resolve()))
        if note.is_file() and len(key := note.read_text()) == 64:
            return key
        key = _hash(source, _content)
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    atomic.write_text(note, key)
    return key


def _hash(source: Source, describe: Callable[[Path], bytes], where: str = "") -> str:
    result = hashlib.sha256(repr((_FORMAT, source.recipe, where)).encode())
    for name in source.files:
        result.update(repr((name, describe(source.root / name))).encode())
    return result.hexdigest()


def _stat(path: Path) -> bytes:
    s = os.stat(path)
    return f"{s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}".encode()


def _content(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
