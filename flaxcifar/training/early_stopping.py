"""Early stopping and the choice of the best epoch."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Immutable state of early stopping, which a checkpoint stores as JSON.

    Attributes:
      mode: "min" or "max".
      patience: stop after this many evaluations in a row without improvement; 0 = never.
      min_delta: an improvement must exceed this change.
      best: the best value so far, None before the first finite one.
      best_step: its step.
      misses: evaluations since then.
    """

    mode: str = "min"
    patience: int = 0
    min_delta: float = 0.0
    best: float | None = None
    best_step: int = 0
    misses: int = 0

    def improves(self, value: float) -> bool:
        """Returns whether `value` improves on the best. A non-finite value never does."""
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
        """Whether the last `patience` evaluations brought no improvement."""
        return 0 < self.patience <= self.misses
