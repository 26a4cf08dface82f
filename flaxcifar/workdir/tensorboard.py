"""What TensorBoard shows of a run: one event file; the only place that knows its format."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams


class Events:
    """The event file of a run, which replaces those that are there.

    A run that goes on writes it from its first row on, so that every tag has each step once.
    """

    def __init__(self, folder: Path):
        for path in folder.glob("*tfevents*"):
            # Windows keeps a file that TensorBoard is reading; it is purged all the same.
            with contextlib.suppress(PermissionError):
                path.unlink()
        # A TensorBoard that has read the old file forgets it at step 0 of the new one, which it
        # takes for newer by its name.
        suffix = f".{time.time_ns()}"
        self._writer = SummaryWriter(str(folder), purge_step=0, filename_suffix=suffix)

    def scalars(self, values: Mapping[str, float], step: int, wall_time: float | None) -> None:
        """Adds numbers by tag; `wall_time` is in seconds since 1970, now by default."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step, wall_time)

    def picture(self, tag: str, picture: np.ndarray, step: int) -> None:
        """Adds a picture, uint8 [H, W, 3]."""
        self._writer.add_image(tag, picture, step, dataformats="HWC")

    def settings(self, settings: Mapping[str, bool | float | str]) -> None:
        """Adds a row to the table of hyper-parameters; its metrics are the last of all scalars."""
        # Not add_hparams: it writes to another directory, and so to another run.
        _, start, end = hparams(settings, {})
        for part in (start, end):
            self._writer.file_writer.add_summary(part)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
