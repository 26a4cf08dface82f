"""What a run knows beside its arrays, and whether it may be resumed."""

import dataclasses
from typing import Any

from flaxcifar.config import to_json
from flaxcifar.optim.plateau import Plateau, make_plateau
from flaxcifar.training.clock import Clock
from flaxcifar.training.early_stopping import EarlyStopping
from flaxcifar.training.experiment import Experiment


@dataclasses.dataclass
class Ledger:
    """What a run knows beside its arrays: with them it is a checkpoint.

    Attributes:
      epoch: epochs done.
      best_step: that of the checkpoint of the best epoch, 0 before the first.
      rollbacks: how often the run went back from numbers that were not finite.
      history: the rows of metrics.jsonl.
    """

    stopping: EarlyStopping
    plateau: Plateau | None
    clock: Clock
    epoch: int = 0
    best_step: int = 0
    rollbacks: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @classmethod
    def start(cls, config: Any) -> "Ledger":
        """Returns the ledger of a run that has not begun."""
        stopping = EarlyStopping(
            mode=config.early_stopping.mode,
            patience=config.early_stopping.patience,
            min_delta=config.early_stopping.min_delta,
        )
        return cls(stopping, make_plateau(config.schedule), Clock())

    @property
    def learning_rate_scale(self) -> float:
        """What reduce-on-plateau and rollbacks have left of the learning rate."""
        return (self.plateau.scale if self.plateau else 1.0) * 0.5**self.rollbacks

    def update(self, row: dict[str, Any], watched: float | None) -> bool:
        """Adds an epoch's row and the validation metric that is watched.

        Returns whether this is the best epoch; without validation the last always is.
        """
        self.epoch = row["epoch"]
        self.history.append(row)
        best = watched is None or self.stopping.improves(watched)
        if best:
            self.best_step = row["step"]
        if watched is not None:
            self.stopping = self.stopping.update(watched, row["step"])
            if self.plateau:
                self.plateau = self.plateau.update(watched, self.stopping.mode)
        return best

    def record(self, experiment: Experiment) -> dict[str, Any]:
        """Returns the JSON that goes into a checkpoint."""
        return {
            "epoch": self.epoch,
            "best_step": self.best_step,
            "rollbacks": self.rollbacks,
            "history": self.history,
            "stopping": dataclasses.asdict(self.stopping),
            "plateau": self.plateau and dataclasses.asdict(self.plateau),
            "clock": self.clock.state(),
            "config": to_json(experiment.config),
            "normalization": experiment.normalization.to_json(),
            "class_names": list(experiment.dataset.class_names),
            "fingerprint": experiment.dataset.fingerprint,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Ledger":
        """Returns the ledger of which `record` was taken; its clock goes on from now."""
        return cls(
            stopping=EarlyStopping(**record["stopping"]),
            plateau=record["plateau"] and Plateau(**record["plateau"]),
            clock=Clock(**record["clock"]),
            epoch=record["epoch"],
            best_step=record["best_step"],
            rollbacks=record["rollbacks"],
            history=record["history"],
        )
