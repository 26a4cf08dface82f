"""The folders of a workdir's checkpoints: which to restore, and which to remove.

`checkpoints/latest/<step>` holds everything that resume needs, `checkpoints/best/<step>` what
evaluation needs. The `record.json` of a latest checkpoint names its `best_step`. The two count as
one checkpoint: it is damaged if either of them is.
"""

import json
from pathlib import Path
from typing import Any

from flaxcifar import console
from flaxcifar.errors import UserError
from flaxcifar.workdir import names
from flaxcifar.workdir.step_folders import StepFolders

Record = dict[str, Any]

KEPT_LATEST = 2
_RECORD = "record.json"


def write_record(folder: Path, record: str) -> None:
    """Writes the metadata of a checkpoint, as JSON, into its folder."""
    (folder / _RECORD).write_text(record)


def read_record(folder: Path) -> Record:
    """Returns the metadata of a checkpoint."""
    return json.loads((folder / _RECORD).read_text())


class CheckpointFolders:
    """The latest and the best checkpoints of a workdir."""

    def __init__(self, workdir: Path):
        self.latest = StepFolders(workdir / names.LATEST)
        self.best = StepFolders(workdir / names.BEST)

    def clean(self) -> None:
        """Removes what killed runs have left unfinished."""
        self.latest.clean()
        self.best.clean()

    def newest_intact(self, strict: bool) -> int | None:
        """Returns the step of the newest intact latest checkpoint, None without any checkpoint.

        Reports and skips damaged ones. Raises UserError if `strict` and the newest is damaged, and
        if all of them are.
        """
        steps = self.latest.steps()
        for step in steps:
            damage = self._damage(step)
            if damage is None:
                return step
            complaint = f"the checkpoint of step {step} is damaged: {damage}"
            if strict:
                raise UserError(f"{complaint}; without --strict an older one is used")
            console.say(f"{complaint}; using an older one")
        if steps:
            raise UserError(
                f"{self.latest.root} has no intact checkpoint; choose another workdir to start "
                "over; nothing was changed"
            )
        return None

    def chosen_best(self) -> int | None:
        """Returns the step of the best checkpoint, None without any.

        It is the one that the newest intact latest checkpoint names, or the newest best one of a
        run that has no latest checkpoint yet. Raises UserError if it is damaged.
        """
        intact = (step for step in self.latest.steps() if self._damage(step) is None)
        newest = next(intact, None)
        if newest is None:
            step = next(iter(self.best.steps()), None)
        else:
            step = self._best_step(newest)
        if not step:
            return None
        if damage := self.best.damage(step):
            raise UserError(f"the best checkpoint, of step {step}, is damaged: {damage}")
        return step

    def remove_old(self, newest: int) -> None:
        """Keeps the latest checkpoints up to step `newest`, and the best ones that they name.

        Keeps newer best ones, too, but no newer latest ones: they are damaged, so that the run was
        resumed from an older one.
        """
        steps = self.latest.steps()
        kept = [step for step in steps if step <= newest][:KEPT_LATEST]
        for step in set(steps) - set(kept):
            self.latest.remove(step)
        named = {self._best_step(step) for step in kept}
        for step in self.best.steps():
            if step not in named and step < max(named):
                self.best.remove(step)

    def _damage(self, step: int) -> str | None:
        """Returns what is wrong with a latest checkpoint or with its best one."""
        damage = self.latest.damage(step)
        if damage is None and (best := self._best_step(step)):
            damage = self.best.damage(best)
            return damage and f"its best, of step {best}: {damage}"
        return damage

    def _best_step(self, step: int) -> int:
        """Returns the step of the best checkpoint; 0 for none, and for a damaged record."""
        try:
            return read_record(self.latest[step])["best_step"]
        except (OSError, ValueError, TypeError, KeyError):
            return 0
