"""The metrics of a run, a row an epoch: metrics.jsonl, timing.jsonl and TensorBoard.

metrics.jsonl holds only what the config determines, so two runs, or a run and its resumption, can
be compared to the bit. Rates and times go to timing.jsonl, which may be incomplete.
"""

import contextlib
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flaxcifar.atomic import write_text
from flaxcifar.workdir import names
from flaxcifar.workdir.json_files import read_rows
from flaxcifar.workdir.tensorboard import EventFile, remove_event_files

Row = dict[str, Any]


class MetricsLog:
    """Appends rows to the metrics of a run."""

    def __init__(self, workdir: Path):
        self._metrics, self._timing = workdir / names.METRICS, workdir / names.TIMING
        self._events = EventFile(workdir / names.TENSORBOARD)

    def write(self, row: Row, timing: dict[str, float]) -> None:
        """Adds a row of numbers, with `step` and `epoch`, and its rates and times."""
        timing = {"step": row["step"], **timing, "time": time.time()}
        for path, values in ((self._metrics, row), (self._timing, timing)):
            with path.open("a") as file:
                file.write(json.dumps(values) + "\n")
        _add_row(self._events, row, timing)
        self._events.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._events.close()


def rewind_metrics(workdir: Path, history: Sequence[Row]) -> None:
    """Sets the metrics of a run back to `history`, the rows that its checkpoint knows.

    Removes what an interrupted run wrote after its checkpoint, and adds what it did not get to
    write. A TensorBoard that is running follows.
    """
    found = {row["step"]: row for row in read_rows(workdir / names.TIMING)}
    timing = [found[row["step"]] for row in history if row["step"] in found]
    for name, rows in ((names.METRICS, history), (names.TIMING, timing)):
        write_text(workdir / name, "".join(json.dumps(row) + "\n" for row in rows))
    folder = workdir / names.TENSORBOARD
    remove_event_files(folder)
    with contextlib.closing(EventFile(folder, purge_step=0)) as events:
        for row in history:
            _add_row(events, row, found.get(row["step"], {}))


def _add_row(events: EventFile, row: Row, timing: Row) -> None:
    values = {
        re.sub("^(train|validation)_", r"\1/", name): value
        for name, value in {**row, **timing}.items()
        if name not in ("step", "epoch", "time")
    }
    events.add_scalars(values, row["step"], timing.get("time"))
