"""Reads the files of a run: config, rows by epoch, summary."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flaxcifar.config import default_config, to_json
from flaxcifar.config.changes import config_changes
from flaxcifar.workdir import names
from flaxcifar.workdir.checkpoints import read_best
from flaxcifar.workdir.json_files import read_json, read_rows
from flaxcifar.workdir.summary_file import Config, read_summary

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The contents of a workdir, apart from its checkpoints.

    Attributes:
      name: the last part of the workdir's path.
      config: config.json, or the config stored in the best checkpoint.
      history: the rows of metrics.jsonl, one an epoch.
      timing: the rows of timing.jsonl, which may lack some epochs.
      summary: summary.json, None until the run ends.
    """

    name: str
    workdir: Path
    config: Row
    history: list[Row]
    timing: list[Row]
    summary: Row | None

    def changed(self) -> dict[str, tuple[Any, Any]]:
        """Returns {dotted key: (default, value)} of the config keys that differ from defaults."""
        return config_changes(to_json(default_config()), self.config)

    @property
    def under_way(self) -> bool:
        """Whether the run has started and not ended. Imported weights have no config.json."""
        return self.summary is None and (self.workdir / names.CONFIG).exists()


def read_run(workdir: Path) -> RunFiles:
    """Reads the files of a run. Raises UserError if `workdir` does not hold one."""
    config = read_json(workdir / names.CONFIG, Config)
    if config is None:
        config = read_best(workdir)[1]["config"]  # raises UserError without a checkpoint
    return RunFiles(
        name=workdir.resolve().name,
        workdir=workdir,
        config=config,
        history=read_rows(workdir / names.METRICS),
        timing=read_rows(workdir / names.TIMING),
        summary=read_summary(workdir),
    )


def read_runs(workdirs: Iterable[Path]) -> list[RunFiles]:
    """Reads several runs. Runs in folders of the same name are named by their whole path."""
    runs = [read_run(workdir) for workdir in workdirs]
    given = [run.name for run in runs]
    return [
        dataclasses.replace(run, name=str(run.workdir)) if given.count(run.name) > 1 else run
        for run in runs
    ]
