"""Folders named after steps, published atomically and checked for damage by SHA-256 hashes."""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flaxcifar import atomic

_MANIFEST = "manifest.json"


class StepFolders:
    """The folders `root/<step>`. Only one process at a time may write."""

    def __init__(self, root: Path):
        self.root = root

    def __getitem__(self, step: int) -> Path:
        return self.root / str(step)

    def steps(self) -> list[int]:
        """Returns the steps that have a folder, the newest first."""
        names = (path.name for path in self.root.iterdir()) if self.root.is_dir() else ()
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def write(self, fill: Callable[[Path], None]) -> Path:
        """Returns a temporary folder that `fill` has filled, with a manifest of hashes."""
        with atomic.new_folder(self.root) as folder:
            fill(folder)
            _write_manifest(folder)
        return folder

    def publish(self, written: Path, step: int) -> None:
        """Flushes a written folder to disk and makes it the folder of `step`."""
        atomic.publish(written, self[step])

    def remove(self, step: int) -> None:
        """Removes the folder of `step`, if it exists."""
        atomic.remove(self[step])

    def clean(self) -> None:
        """Removes what killed processes have left unfinished."""
        atomic.remove_leftovers(self.root)

    def damage(self, step: int) -> str | None:
        """Returns what is wrong with the folder of `step`, None if it is intact."""
        folder = self[step]
        try:
            expected = json.loads((folder / _MANIFEST).read_bytes())
            found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
            for name in sorted(expected.keys() | found - {_MANIFEST}):
                if name not in found:
                    return f"{name} is missing"
                if name not in expected:
                    return f"{name} does not belong there"
                if _hash(folder / name) != expected[name]:
                    return f"{name} has changed since it was written"
        except FileNotFoundError as error:
            return f"{Path(error.filename).name} is missing"
        except (OSError, ValueError, AttributeError) as error:
            name = Path(getattr(error, "filename", None) or _MANIFEST).name
            return f"{name} cannot be read ({error})"
        return None


def _write_manifest(folder: Path) -> None:
    """Writes {path: SHA-256}."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as threads:
        hashes = dict(zip(files, threads.map(_hash, files), strict=True))
    named = {str(path.relative_to(folder)): value for path, value in hashes.items()}
    (folder / _MANIFEST).write_text(json.dumps(named, indent=1))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
