"""Early stopping, and the choice of the best evaluation, as a value that a checkpoint can hold."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Which evaluation was the best, and for how many since then none was better.

    Attributes:
      mode: "min" or "max".
      patience: evaluations in a row without improvement after which to stop; 0 = never.
      min_delta: a change of at most this much is no improvement.
      best: the best value so far, None before the first finite one.
      best_step: the step of that value.
      misses: evaluations since then.
    """

    mode: str = "min"
    patience: int = 0
    min_delta: float = 0.0
    best: float | None = None
    best_step: int = 0
    misses: int = 0

    def improves(self, value: float) -> bool:
        """Returns whether `value` is better than the best; a non-finite value never is."""
        if not math.isfinite(value):
            return False
        if self.best is None:
            return True
        gain = self.best - value if self.mode == "min" else value - self.best
        return gain > self.min_delta

    def update(self, value: float, step: int) -> "EarlyStopping":
        """Returns the state after an evaluation with this value at this step."""
        if self.improves(value):
            return dataclasses.replace(self, best=value, best_step=step, misses=0)
        return dataclasses.replace(self, misses=self.misses + 1)

    @property
    def should_stop(self) -> bool:
        """Whether the last `patience` evaluations were all misses."""
        return 0 < self.patience <= self.misses
