"""What a run's own files say of it: its config, its rows, its results."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flaxcifar.config import default_config, to_json
from flaxcifar.config.changes import config_changes
from flaxcifar.workdir import names
from flaxcifar.workdir.checkpoints import read_best
from flaxcifar.workdir.files import read_json, read_rows

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """A run as its workdir has it; nothing is computed.

    Attributes:
      name: the last part of the workdir's path.
      config: as config.json has it.
      history, timing: the rows of metrics.jsonl and timing.jsonl.
      summary: summary.json, None of a run that has not ended.
    """

    name: str
    workdir: Path
    config: Row
    history: list[Row]
    timing: list[Row]
    summary: Row | None

    def changed(self) -> dict[str, tuple[Any, Any]]:
        """Returns {key: (default, value)} of what the config sets to something else."""
        return config_changes(to_json(default_config()), self.config)

    @property
    def under_way(self) -> bool:
        """Whether the run has begun and not ended; weights from elsewhere are no run."""
        return self.summary is None and (self.workdir / names.CONFIG).exists()

    def seconds(self) -> float | None:
        """Returns the wall time so far, None where it is not known."""
        return self.timing[-1]["seconds"] if self.timing else None


def read_run(workdir: Path) -> RunFiles:
    """Returns what the files of `workdir` say; raises UserError where it is no run's."""
    config = read_json(workdir / names.CONFIG)
    if config is None:
        config = read_best(workdir)[1]["config"]  # or says what is wrong with the workdir
    return RunFiles(
        name=workdir.resolve().name,
        workdir=workdir,
        config=config,
        history=read_rows(workdir / names.METRICS),
        timing=read_rows(workdir / names.TIMING),
        summary=read_json(workdir / names.SUMMARY),
    )


def with_names(runs: Iterable[RunFiles]) -> list[RunFiles]:
    """Returns the runs, named by their whole path where two would be called the same."""
    runs = list(runs)
    given = [run.name for run in runs]
    return [
        dataclasses.replace(run, name=str(run.workdir)) if given.count(run.name) > 1 else run
        for run in runs
    ]
