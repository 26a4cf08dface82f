"""The Python API: trains a config, reports the run and advises on memory."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from flaxcifar import console
from flaxcifar.errors import OutOfMemoryError
from flaxcifar.training.loop import train_and_evaluate
from flaxcifar.training.step import TrainState
from flaxcifar.workdir import names


def train(
    config: Any,
    workdir: str | os.PathLike,
    *,
    strict: bool = False,
    allow_change: Collection[str] = (),
) -> TrainState:
    """Trains a checked config in `workdir`, or resumes the run that `workdir` holds.

    Writes `report.html` at the end if `config.report` is set. In the main thread, SIGTERM and
    SIGINT save the state after the current step and end the run.

    Args:
      config: as returned by `flaxcifar.config.load`.
      workdir: the directory for checkpoints and results; created if missing.
      strict: refuse to resume from an older checkpoint if the newest is damaged.
      allow_change: config keys that may differ from those of the run in `workdir`.

    Returns:
      The final state.

    Raises:
      UserError: the config, data, devices or workdir do not fit together. Nothing was written.
      RunError: the loss became non-finite, a checkpoint could not be written, a device ran out of
        memory, or a signal arrived.
    """
    try:
        return train_and_evaluate(
            config,
            workdir,
            strict=strict,
            allow_change=allow_change,
            on_end=_write_missing_report if config.report else None,
        )
    except OutOfMemoryError as error:
        from flaxcifar.tpu import out_of_memory  # slow to import

        advice = out_of_memory.advice(error.experiment)
        if advice is None:
            raise
        raise OutOfMemoryError(f"{error}; {advice}", error.experiment) from error


def _write_missing_report(workdir: Path) -> None:
    if (workdir / names.REPORT).exists():
        return
    from flaxcifar.report import conclude_report  # slow to import

    try:
        console.say(f"report: {conclude_report(workdir)}")
    except Exception as error:  # the results are on disk already
        words = " ".join(str(error).split())[:300]
        console.say(f"the report was not written: {type(error).__name__}: {words}")
