"""TensorBoard event files of a run. No other module knows their format."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

_RESULTS = ".results"  # suffix of the file of a finished run's results


class EventFile:
    """A new event file, which TensorBoard reads after those that are already in the folder.

    Args:
      folder: of the event files.
      suffix: end of the file's name.
      purge_step: TensorBoard forgets what it has read of this step and later ones.
    """

    def __init__(self, folder: Path, suffix: str = "", purge_step: int | None = None):
        # TensorBoard sorts by name, which starts with whole seconds.
        suffix = f".{time.time_ns()}{suffix}"
        self._writer = SummaryWriter(str(folder), purge_step=purge_step, filename_suffix=suffix)

    def add_scalars(
        self, values: Mapping[str, float], step: int, wall_time: float | None = None
    ) -> None:
        """Adds {tag: value}; `wall_time` is in seconds since 1970, by default now."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step, wall_time)

    def add_image(self, tag: str, image: np.ndarray, step: int) -> None:
        """Adds an image, uint8 [H, W, 3]."""
        self._writer.add_image(tag, image, step, dataformats="HWC")

    def add_settings(self, settings: Mapping[str, bool | float | str]) -> None:
        """Adds a row to the table of hyper-parameters; its metrics are the latest scalars."""
        # add_hparams would write to another folder, and so to another run.
        _, start, end = hparams(settings, {})
        for part in (start, end):
            self._writer.file_writer.add_summary(part)

    def flush(self) -> None:
        """Writes what was added to the file."""
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._writer.close()


def remove_event_files(folder: Path, suffix: str = "") -> None:
    """Removes the event files whose names end in `suffix`."""
    for path in folder.glob(f"*tfevents*{suffix}"):
        # Windows keeps a file that TensorBoard is reading.
        with contextlib.suppress(PermissionError):
            path.unlink()


def write_results(
    folder: Path,
    step: int,
    results: Mapping[str, float],
    settings: Mapping[str, bool | float | str],
    pictures: Mapping[str, np.ndarray],
) -> None:
    """Adds a file with a finished run's results, config and pictures; replaces an earlier one.

    Args:
      folder: of the event files.
      step: the last step of the run.
      results: {tag: value}.
      settings: {config key: value}.
      pictures: {tag: uint8 [H, W, 3]}.
    """
    remove_event_files(folder, _RESULTS)
    with contextlib.closing(EventFile(folder, _RESULTS)) as events:
        events.add_scalars(results, step)
        events.add_settings(settings)
        for tag, picture in pictures.items():
            events.add_image(tag, picture, step)
