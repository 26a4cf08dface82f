"""Measures training rate, compilation time and total time of a run."""

import dataclasses
import time
from collections.abc import Callable

import jax.monitoring

_compile_seconds = 0.0


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    # JAX reports tracing, lowering and backend compilation separately.
    global _compile_seconds
    if event.startswith("/jax/core/compile/"):
        _compile_seconds += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


def compile_seconds() -> float:
    """Returns the seconds that JAX has spent compiling in this process."""
    return _compile_seconds


@dataclasses.dataclass
class Clock:
    """Accumulates the time of a run across resumes.

    The steady rate covers training only. It excludes evaluation, checkpoints, compilation and the
    first dispatch of a process, which is a warm-up. The caller blocks on the device before every
    call.

    Attributes:
      images, train_seconds: counted for the steady rate.
      compile_seconds, total_seconds: of the whole run, as of the last `state()`.
      now: returns seconds; replaced in tests.
    """

    images: int = 0
    train_seconds: float = 0.0
    compile_seconds: float = 0.0
    total_seconds: float = 0.0
    now: Callable[[], float] = dataclasses.field(default=time.perf_counter, repr=False)

    def __post_init__(self) -> None:
        self._last, self._last_compile = self.now(), compile_seconds()
        self._cold = True
        self.begin()

    def begin(self) -> None:
        """Starts timing an epoch or the rest of one."""
        self._part_images, self._part_seconds = 0, 0.0
        self.skip()

    def skip(self) -> None:
        """Excludes the time since the last lap from the rates."""
        self._began, self._began_compile = self.now(), compile_seconds()

    def lap(self, images: int) -> None:
        """Counts the images trained on since `begin` or the last lap."""
        if not images:
            return
        compiled = compile_seconds() - self._began_compile
        seconds = max(self.now() - self._began - compiled, 1e-9)
        self.skip()
        self._part_images += images
        self._part_seconds += seconds
        if self._cold:
            self._cold = False
            return
        self.images += images
        self.train_seconds += seconds

    @property
    def rate(self) -> float:
        """Images/s since `begin`; 0.0 before the first lap."""
        return self._part_images / self._part_seconds if self._part_images else 0.0

    @property
    def images_per_second(self) -> float:
        """The steady rate of the whole run in images/s; `rate` if there was only one lap."""
        return self.images / self.train_seconds if self.images else self.rate

    def state(self) -> dict[str, float]:
        """Returns the keywords of a clock that continues from now, for a checkpoint."""
        now, compiled = self.now(), compile_seconds()
        self.total_seconds += now - self._last
        self.compile_seconds += compiled - self._last_compile
        self._last, self._last_compile = now, compiled
        names = ("images", "train_seconds", "compile_seconds", "total_seconds")
        return {name: getattr(self, name) for name in names}
