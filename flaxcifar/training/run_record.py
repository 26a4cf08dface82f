"""Run metadata stored in every checkpoint."""

import dataclasses
from typing import Any

from flaxcifar.components import origins
from flaxcifar.config import to_json
from flaxcifar.optim.plateau import Plateau, make_plateau
from flaxcifar.training.clock import Clock
from flaxcifar.training.early_stopping import EarlyStopping
from flaxcifar.training.experiment import Experiment


@dataclasses.dataclass
class RunRecord:
    """The state of a run on the host: a checkpoint is this and the arrays.

    Attributes:
      stopping: early stopping and the best value of the watched metric.
      plateau: reduce-on-plateau, None with another schedule.
      clock: rates and times.
      epoch: number of finished epochs.
      best_step: step of the best checkpoint, 0 before the first.
      rollbacks: number of rollbacks after a loss that was not finite.
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
    def start(cls, config: Any) -> "RunRecord":
        """Returns the record before the first step."""
        stopping = EarlyStopping(
            mode=config.early_stopping.mode,
            patience=config.early_stopping.patience,
            min_delta=config.early_stopping.min_delta,
        )
        return cls(stopping, make_plateau(config.schedule), Clock())

    @property
    def learning_rate_scale(self) -> float:
        """Factor of the learning rate after reduce-on-plateau and rollbacks."""
        return (self.plateau.scale if self.plateau else 1.0) * 0.5**self.rollbacks

    @property
    def improved(self) -> bool:
        """Whether the last epoch improved the watched metric; True without one."""
        return self.stopping.misses == 0

    def add_epoch(self, row: dict[str, Any], config: Any) -> bool:
        """Adds the metrics of an epoch.

        Returns:
          Whether the parameters of this epoch are the best so far. Without a validation split,
          without a finite value of the watched metric so far, or with
          `early_stopping.restore_best` off, the last ones are.
        """
        self.epoch = row["epoch"]
        self.history.append(row)
        watched = row.get(f"validation_{config.early_stopping.metric}")
        if watched is not None:
            self.stopping = self.stopping.update(watched, row["step"])
            if self.plateau:
                self.plateau = self.plateau.update(watched, self.stopping.mode)
        chooses = config.early_stopping.restore_best and self.stopping.best is not None
        best = self.improved or not chooses
        if best:
            self.best_step = row["step"]
        return best

    def to_json(self, experiment: Experiment) -> dict[str, Any]:
        """Returns the JSON of a checkpoint: this record, and facts that readers need."""
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
            "components": origins(to_json(experiment.config)),
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "RunRecord":
        """Returns the record of a checkpoint. Its clock continues from now."""
        return cls(
            stopping=EarlyStopping(**record["stopping"]),
            plateau=record["plateau"] and Plateau(**record["plateau"]),
            clock=Clock(**record["clock"]),
            epoch=record["epoch"],
            best_step=record["best_step"],
            rollbacks=record["rollbacks"],
            history=record["history"],
        )
