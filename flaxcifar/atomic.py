"""Files and folders that appear whole or not at all, whenever the process is killed."""

import contextlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Prefix of the names that unfinished folders have until they are published.
_TEMPORARY = ".tmp-"
# Windows cannot open a folder.
_FOLDERS_OPEN = os.name != "nt"


def write_text(path: Path, text: str) -> None:
    """Replaces a file: a reader sees the old text or the new."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file: a reader sees the old content or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


@contextlib.contextmanager
def new_folder(parent: Path) -> Iterator[Path]:
    """Yields an empty folder in `parent` to fill and publish; removes it after an exception."""
    folder = _make_folder(parent)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def publish(
    temporary: Path, folder: Path, *, keep: Callable[[Path], bool] = lambda _: False
) -> None:
    """Flushes a finished folder to disk and renames it to `folder`.

    Replaces an existing folder unless `keep(folder)`. Several processes may publish the same
    folder at once.

    Raises:
      OSError: the folder cannot be written; `temporary` is removed.
    """
    try:
        for path in (*temporary.rglob("*"), temporary):
            _flush(path)
        for attempt in range(10):
            try:
                os.rename(temporary, folder)
                break
            except OSError:
                if not folder.exists() or attempt == 9:
                    raise
            if keep(folder):
                return
            remove(folder)
        _flush(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove(folder: Path) -> None:
    """Removes a folder, if it exists. The rename makes it disappear as a whole."""
    if not folder.exists():
        return
    leaving = _make_folder(folder.parent)
    with contextlib.suppress(FileNotFoundError):  # another process has just removed it
        os.rename(folder, leaving / folder.name)
    shutil.rmtree(leaving, ignore_errors=True)


def remove_leftovers(parent: Path, min_age_seconds: float = 0.0) -> None:
    """Removes the unfinished folders of killed processes from `parent`."""
    for path in parent.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            if not min_age_seconds or time.time() - path.stat().st_mtime > min_age_seconds:
                shutil.rmtree(path, ignore_errors=True)


def _make_folder(parent: Path) -> Path:
    # Not tempfile.mkdtemp: it lets nobody but the owner read the folder.
    folder = parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
    folder.mkdir(parents=True)
    return folder


def _flush(path: Path) -> None:
    if path.is_dir() and not _FOLDERS_OPEN:
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
