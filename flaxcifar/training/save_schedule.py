"""Decides when to save a run within an epoch."""

import dataclasses
import time
from collections.abc import Callable

from flaxcifar.devices.processes import Decision


@dataclasses.dataclass
class SaveSchedule:
    """Counts steps and minutes since the last save. All processes of a run get the same answers.

    Attributes:
      every_steps: steps between saves; 0 = do not count steps.
      every_minutes: minutes between saves; 0 = do not count minutes.
      now: returns seconds; replaced in tests.
    """

    every_steps: int
    every_minutes: float
    now: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._decision = Decision()
        self.restart(0)

    def restart(self, step: int) -> None:
        """Counts from now on, after a save or a start at `step`."""
        self._step, self._seconds = step, self.now()
        self._decision.forget()

    def due(self, step: int) -> bool:
        """Returns whether to save after `step` steps. Every process must call this every time."""
        minutes = (self.now() - self._seconds) / 60
        return self._decision(
            0 < self.every_steps <= step - self._step
            or 0 < self.every_minutes <= minutes
            and step > self._step
        )
