"""Numbered directories that are there whole or not at all, and tell when they are damaged.

A directory is written under another name, every file of it hashed into `manifest.json`; when it is
published it is flushed and renamed. Its removal begins with a rename, too: whatever instant the
process is killed at, a number names a whole directory or none.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_MANIFEST = "manifest.json"
_TEMPORARY = ".tmp-"


class Store:
    """The directories `root/<number>`; one process at a time may write."""

    def __init__(self, root: Path):
        self.root = root

    def __getitem__(self, number: int) -> Path:
        return self.root / str(number)

    def numbers(self) -> list[int]:
        """Returns the numbers there are, the largest first."""
        names = (path.name for path in self.root.iterdir()) if self.root.is_dir() else ()
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def write(self, number: int, fill: Callable[[Path], None]) -> None:
        """Writes what `fill` puts into an empty directory; `publish` gives it its number."""
        temporary = self._temporary(number)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            fill(temporary)
            _seal(temporary)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def publish(self, number: int) -> None:
        """Makes the directory `number` of what was written for it, on disk; it replaces any."""
        temporary = self._temporary(number)
        try:
            for path in (*temporary.rglob("*"), temporary):
                _flush(path)
            self.remove(number)
            os.rename(temporary, self[number])
            _flush(self.root)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _temporary(self, number: int) -> Path:
        return self.root / f"{_TEMPORARY}{number}"

    def remove(self, number: int) -> None:
        """Removes the directory `number`, if there is one."""
        if self[number].exists():
            leaving = self.root / f"{_TEMPORARY}removed-{number}"
            shutil.rmtree(leaving, ignore_errors=True)
            os.rename(self[number], leaving)
            shutil.rmtree(leaving, ignore_errors=True)

    def clean(self) -> None:
        """Removes what a killed process was writing or removing."""
        for path in self.root.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(path, ignore_errors=True)

    def damage(self, number: int) -> str | None:
        """Returns what is wrong with the directory `number`; None where it is as it was written."""
        folder = self[number]
        try:
            expected = json.loads((folder / _MANIFEST).read_bytes())
            found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
            for name in sorted(expected.keys() | found - {_MANIFEST}):
                if name not in found:
                    return f"{name} is missing"
                if name not in expected:
                    return f"{name} does not belong there"
                if _hash(folder / name) != expected[name]:
                    return f"{name} is not as it was written"
        except FileNotFoundError as error:
            return f"{Path(error.filename).name} is missing"
        except (OSError, ValueError, AttributeError) as error:
            return f"it cannot be read ({error})"
        return None


def _seal(folder: Path) -> None:
    """Writes the manifest, {path: SHA-256}."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as threads:
        hashes = dict(zip(files, threads.map(_hash, files), strict=True))
    named = {str(path.relative_to(folder)): value for path, value in hashes.items()}
    (folder / _MANIFEST).write_text(json.dumps(named, indent=1))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
