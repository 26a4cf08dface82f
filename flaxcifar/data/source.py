"""A dataset that is found but not yet decoded, and the hash of its content."""

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flaxcifar import atomic
from flaxcifar.data.dataset import Dataset
from flaxcifar.data.on_disk import OnDisk
from flaxcifar.errors import UserError

# Allocates uint8 images of a shape [N, H, W, 3] on disk, for the decoder to fill.
Empty = Callable[[tuple[int, int, int, int]], np.ndarray | OnDisk]

# Change this whenever the layout of cache entries changes.
_FORMAT = 1


@dataclass(frozen=True)
class Source:
    """A dataset that is found but not yet decoded.

    Attributes:
      recipe: text that must change whenever the same files would be decoded to other arrays.
      decode: returns the dataset. It may allocate images with its argument and fill them piece by
        piece, so that they need not fit into memory.
      files: paths under `root` of all files that `decode` reads; () if the recipe alone determines
        the arrays. By default the content is known only once it is decoded, which is then done in
        every run.
    """

    name: str
    recipe: str
    decode: Callable[[Empty], Dataset]
    root: Path = Path()
    files: tuple[str, ...] | None = None

    def prepared(self) -> "Source":
        """Returns itself: unlike that of a `Download`, its data is there."""
        return self


def content_key(source: Source, notes: Path) -> str | None:
    """Returns the SHA-256, hex, of the recipe and of the names and content of the files.

    Returns None if the source does not name its files.

    Hashing takes seconds, so the key is stored and reused while `stat` reports no change.

    Args:
      notes: the folder of stored keys.

    Raises:
      UserError: a file cannot be read.
    """
    if source.files is None:
        return None
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
    for name in source.files or ():
        result.update(repr((name, describe(source.root / name))).encode())
    return result.hexdigest()


def _stat(path: Path) -> bytes:
    s = os.stat(path)
    if not stat.S_ISREG(s.st_mode):  # opening a pipe would block
        raise UserError(f"{path} is not a regular file: remove it")
    return f"{s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}".encode()


def _content(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
