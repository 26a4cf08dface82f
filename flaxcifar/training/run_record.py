"""What a run knows beside its arrays, and whether it may be resumed."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from flaxcifar.config import to_json
from flaxcifar.errors import UserError
from flaxcifar.optim.schedules import Plateau, make_plateau
from flaxcifar.registry import suggestion
from flaxcifar.training.clock import Clock
from flaxcifar.training.early_stopping import EarlyStopping
from flaxcifar.training.experiment import Experiment

# They change how a run is computed or how long it is, but nothing that was computed before.
_MAY_CHANGE = frozenset(
    "checkpoint.every_epochs checkpoint.every_minutes checkpoint.every_steps data.dir "
    "data.cache_dir data.memory_gb data.pipeline eval_batch_size on_nonfinite report "
    "steps_per_dispatch total_epochs total_steps".split()
)


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


def config_changes(saved: Mapping[str, Any], config: Any) -> dict[str, tuple[Any, Any]]:
    """Returns {dotted key: (saved value, new value)} of a config.json against a config."""
    old, new = flatten(to_json(saved)), flatten(to_json(config))
    keys = sorted({*old, *new})
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {dotted key: value} of a config's plain dicts."""
    flat = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def check_resumable(
    saved: Mapping[str, Any] | None, config: Any, workdir: Path, allowed: Collection[str] = ()
) -> dict[str, str]:
    """Returns {key: words} of what differs between the saved config of a run, if any, and this.

    Raises UserError where a key differs that is neither in `allowed` nor one that may change. What
    is allowed need not differ: the same command resumes a run that it has changed.
    """
    kinds = [kind for kind in ("best", "latest") if (workdir / "checkpoints" / kind).is_dir()]
    if saved is None and kinds == ["best"]:
        raise UserError(
            f"{workdir} holds weights and no run: start from them with "
            f"--config.init_from={workdir} and another --workdir; nothing was changed"
        )
    changes = config_changes(saved or config, config)
    known = flatten(to_json(config))
    for key in allowed:
        if key not in known and key not in changes:
            raise UserError(f"--allow_change names no key: {key!r}{suggestion(key, [*known])}")
    refused = [key for key in changes if key not in _MAY_CHANGE and key not in allowed]
    words = {key: f"{key} was {old!r}, now {new!r}" for key, (old, new) in changes.items()}
    if refused:
        raise UserError(
            f"{workdir} holds a run with another config "
            f"({'; '.join(words[key] for key in refused)}): resume it with its own config, choose "
            f"another --workdir, or add --allow_change={','.join(refused)}; nothing was changed"
        )
    return words
