"""Chooses, creates, locks and checks the workdir of a run."""

import contextlib
import datetime
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from flaxcifar.errors import UserError
from flaxcifar.workdir import names
from flaxcifar.workdir.json_files import read_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def fresh_workdir(name: str) -> Path:
    """Returns a path under `runs/` that does not exist, named after the time and `name`."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    suffixes = itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
    candidates = (Path("runs") / f"{stamp}-{name}{suffix}" for suffix in suffixes)
    return next(path for path in candidates if not path.exists())


def saved_config(workdir: Path) -> dict[str, Any] | None:
    """Returns the config of the run in `workdir`, None without one.

    Raises UserError if `workdir` is a file, or the config is damaged.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"{workdir} is a file: choose another --workdir, which must be a folder")
    return read_json(workdir / names.CONFIG)


def prepare(workdir: Path) -> None:
    """Creates the workdir; raises UserError if it cannot be created or written to."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {workdir}: {error.strerror}; choose another") from None


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Context manager: locks the workdir against other runs, until the process ends at the latest.

    Raises UserError if another run holds the lock.
    """
    with (workdir / names.LOCK).open("a+") as file:
        if not _lock(file):
            raise UserError(
                f"another run is using {workdir}: wait for it or choose another --workdir"
            )
        yield


def _lock(file: IO) -> bool:
    """Locks a file until it is closed, or its process ends; returns whether it was free."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):  # so Linux and Windows call it
        return False
    return True


def check_space(workdir: Path, needed: int) -> None:
    """Raises UserError if the workdir's disk has less than `needed` bytes left."""
    free = shutil.disk_usage(workdir).free
    if free < needed:
        raise UserError(
            f"{workdir} has {free / 1e6:,.0f} MB left on its disk, and the checkpoints of this run "
            f"take up to {needed / 1e6:,.0f} MB: free some space or choose another --workdir"
        )
