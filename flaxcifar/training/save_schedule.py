"""When a run is to be saved within an epoch."""

import dataclasses
import time
from collections.abc import Callable


@dataclasses.dataclass
class Timetable:
    """Counts steps and minutes since the last save; 0 = not for that reason.

    Attributes:
      now: seconds; injectable for tests.
    """

    every_steps: int
    every_minutes: float
    step: int
    now: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.saved(self.step)

    def saved(self, step: int) -> None:
        """Notes a save after `step` steps of training."""
        self.step, self._when = step, self.now()

    def due(self, step: int) -> bool:
        """Whether it is time for a save after `step` steps of training."""
        minutes = (self.now() - self._when) / 60
        return (
            0 < self.every_steps <= step - self.step
            or 0 < self.every_minutes <= minutes
            and step > self.step
        )
