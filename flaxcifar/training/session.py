"""Everything that stays the same while a run trains."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from flaxcifar.training.dispatch import Dispatch
from flaxcifar.training.evaluation import Evaluate
from flaxcifar.training.experiment import Experiment
from flaxcifar.training.metrics import Metrics
from flaxcifar.training.run_state import RunState
from flaxcifar.training.save_schedule import SaveSchedule
from flaxcifar.training.signals import Interruption
from flaxcifar.training.step import TrainState
from flaxcifar.workdir.checkpoints import Checkpoints

TrainFn = Callable[[TrainState, Metrics, Dispatch], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True)
class Session:
    """An experiment in a workdir, with its compiled functions and its ways to save and stop."""

    experiment: Experiment
    workdir: Path
    checkpoints: Checkpoints
    interruption: Interruption
    schedule: SaveSchedule
    train_fn: TrainFn
    evaluate: Evaluate

    def save(self, run: RunState) -> None:
        """Starts to save a resumable checkpoint."""
        arrays = {"state": run.state, "metrics": run.metrics}
        self.checkpoints.save_latest(run.step, arrays, run.record.to_json(self.experiment))
        self.schedule.restart(run.step)

    def save_best(self, run: RunState) -> None:
        """Starts to save what evaluation needs."""
        self.checkpoints.save_best(
            run.record.best_step,
            run.state.eval_params,
            run.state.batch_stats,
            run.record.to_json(self.experiment),
        )
