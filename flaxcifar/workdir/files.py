"""The files of a run, apart from its checkpoints; each is replaced whole or not at all."""

import contextlib
import datetime
import itertools
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxcifar.errors import UserError
from flaxcifar.workdir import names
from flaxcifar.workdir.tensorboard import Events

try:
    import fcntl
except ImportError:  # Windows has no locks that end with their process
    fcntl = None


def fresh_workdir(name: str) -> Path:
    """Returns a path under `runs/` that does not exist, named after the time and `name`."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    candidates = (Path("runs") / f"{stamp}-{name}{suffix}" for suffix in _suffixes())
    return next(path for path in candidates if not path.exists())


def _suffixes() -> Iterator[str]:
    yield ""
    yield from (f"-{n}" for n in itertools.count(2))


def prepare(workdir: Path) -> None:
    """Makes the workdir; raises UserError where it cannot be made or written to."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {workdir}: {error.strerror}; choose another") from None


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps other runs out of the workdir within; a process that dies lets go of it.

    Raises UserError where another run is in it.
    """
    with (workdir / names.LOCK).open("a+") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another run is using {workdir}: wait for it or choose another --workdir"
                ) from None
        yield


def check_space(workdir: Path, needed: int) -> None:
    """Raises UserError where the disk of the workdir has less than `needed` bytes left."""
    free = shutil.disk_usage(workdir).free
    if free < needed:
        raise UserError(
            f"{workdir} has {free / 1e6:,.0f} MB left on its disk, and the checkpoints of this run "
            f"take up to {needed / 1e6:,.0f} MB: free some space or choose another --workdir"
        )


def write_text(path: Path, text: str) -> None:
    """Replaces a file atomically: a reader sees the old text or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Replaces a file by `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any | None:
    """Returns the JSON value of a file, None where there is no file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); move it away to go on") from None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the whole lines of a file of JSON lines that may be missing or end within one."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Logbook:
    """`metrics.jsonl` and TensorBoard: a row an epoch.

    `metrics.jsonl` holds only what the config determines, so that two runs, or a run and its
    resumption, can be compared to the bit; rates and times go to `timing.jsonl`, which need not be
    complete, and to TensorBoard.
    """

    def __init__(self, workdir: Path, history: Sequence[dict[str, Any]]):
        """Continues after `history`, the rows so far; what an interrupted run wrote later goes."""
        self._metrics, self._timing = workdir / names.METRICS, workdir / names.TIMING
        found = {row["step"]: row for row in read_rows(self._timing)}
        timing = [found[row["step"]] for row in history if row["step"] in found]
        for path, rows in ((self._metrics, history), (self._timing, timing)):
            write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        self._events = Events(workdir / names.TENSORBOARD)
        for row in history:
            self._show(row, found.get(row["step"], {}))
        self._events.flush()

    def write(self, row: dict[str, Any], timing: dict[str, float]) -> None:
        """Adds a row of numbers, `step` and `epoch` among them, and what it took."""
        timing = {"step": row["step"], **timing, "time": time.time()}
        for path, values in ((self._metrics, row), (self._timing, timing)):
            with path.open("a") as file:
                file.write(json.dumps(values) + "\n")
        self._show(row, timing)
        self._events.flush()

    def conclude(
        self,
        step: int,
        results: Mapping[str, float],
        settings: Mapping[str, bool | float | str],
        pictures: Mapping[str, np.ndarray],
    ) -> None:
        """Shows in TensorBoard the final numbers, the config and pictures, uint8 [H, W, 3]."""
        self._events.scalars(results, step, None)
        self._events.settings(settings)
        for tag, picture in pictures.items():
            self._events.picture(tag, picture, step)

    def close(self) -> None:
        self._events.close()

    def _show(self, row: dict[str, Any], timing: dict[str, float]) -> None:
        values = {
            re.sub("^(train|validation)_", r"\1/", name): value
            for name, value in {**row, **timing}.items()
            if name not in ("step", "epoch", "time")
        }
        self._events.scalars(values, row["step"], timing.get("time"))
