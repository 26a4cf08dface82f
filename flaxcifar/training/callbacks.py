"""Callbacks: code of the user's own at the start of a run, after each epoch and at the end."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxcifar.devices import processes


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as callbacks see it.

    Attributes:
      workdir: with its config, checkpoints and metrics.
      config: a copy, as plain dicts.
      total_epochs: length of the run, including a partial last epoch.
      total_steps: length of the run.
    """

    workdir: Path
    config: Mapping[str, Any]
    total_epochs: int
    total_steps: int


class Callback:
    """Base class of callbacks, which log, copy or stop. They cannot change the results.

    The first of several processes calls them.

    Example:
      class StopAt(Callback):
          def on_epoch_end(self, run, row):
              return row["validation_accuracy"] > 0.9
    """

    def on_start(self, run: Run, history: Sequence[Mapping[str, Any]]) -> None:
        """Called before training; `history` has the rows of earlier epochs if the run resumes."""

    def on_epoch_end(self, run: Run, row: Mapping[str, Any]) -> bool | None:
        """Called when an epoch is evaluated and saved; returns True to stop the run here.

        A stopped run is evaluated as if it were finished. Training it again resumes it.

        Args:
          row: the epoch's row in metrics.jsonl.
        """

    def on_end(self, run: Run, summary: Mapping[str, Any]) -> None:
        """Called when the results are written, also for a run that had finished before.

        Args:
          summary: the content of summary.json.
        """


def started(callbacks: Sequence[Callback], run: Run, history: Sequence[Mapping[str, Any]]) -> None:
    """Calls `on_start` of all callbacks."""
    if processes.is_first():
        for callback in callbacks:
            callback.on_start(run, [dict(row) for row in history])


def should_stop(callbacks: Sequence[Callback], run: Run, row: Mapping[str, Any]) -> bool:
    """Calls `on_epoch_end` of all callbacks; returns in all processes whether one wants to stop."""
    if not callbacks:
        return False
    # A list: each is called, whatever the others return.
    return processes.from_first(lambda: any([c.on_epoch_end(run, dict(row)) for c in callbacks]))


def ended(callbacks: Sequence[Callback], run: Run, summary: Mapping[str, Any]) -> None:
    """Calls `on_end` of all callbacks."""
    if processes.is_first():
        for callback in callbacks:
            callback.on_end(run, dict(summary))
