"""Where the time of a run went: training, compiling, and all of it."""

import dataclasses
import time
from collections.abc import Callable

import jax.monitoring

_compile_seconds = 0.0


def _listen(event: str, seconds: float, **_: object) -> None:
    # JAX reports tracing, lowering and the backend's compilation one by one.
    global _compile_seconds
    if event.startswith("/jax/core/compile/"):
        _compile_seconds += seconds


jax.monitoring.register_event_duration_secs_listener(_listen)


def compile_seconds() -> float:
    """Returns the seconds that JAX has spent compiling in this process."""
    return _compile_seconds


@dataclasses.dataclass
class Clock:
    """Adds up a run's time, over resumes too; `now` is injectable for tests.

    The steady rate counts images and seconds of training alone: no evaluation, no checkpoints, no
    compilation, and not the first dispatch of a process, on which everything is still warming up
    (unless there is no other). The caller blocks on the device before each call.

    Attributes:
      images, train_seconds: of the steady rate.
      compile_seconds, total_seconds: of the whole run, as of the last `state()`.
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
        """Starts to time a stretch of training, an epoch say."""
        self._part_images, self._part_seconds = 0, 0.0
        self.skip()

    def skip(self) -> None:
        """Leaves the time since the last lap out of the rates."""
        self._began, self._began_compile = self.now(), compile_seconds()

    def lap(self, images: int) -> None:
        """Counts `images` as trained on since `begin` or the last lap."""
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
        """Images/s since `begin`, 0.0 before the first lap."""
        return self._part_images / self._part_seconds if self._part_images else 0.0

    @property
    def images_per_second(self) -> float:
        """The steady rate of the whole run; that of the stretch where there was one lap only."""
        return self.images / self.train_seconds if self.images else self.rate

    def state(self) -> dict[str, float]:
        """Returns what a checkpoint keeps: the keywords of a clock that goes on from here."""
        now, compiled = self.now(), compile_seconds()
        self.total_seconds += now - self._last
        self.compile_seconds += compiled - self._last_compile
        self._last, self._last_compile = now, compiled
        names = ("images", "train_seconds", "compile_seconds", "total_seconds")
        return {name: getattr(self, name) for name in names}
