"""SIGTERM and SIGINT: the step that is under way ends, the state is saved, the process exits.

A second signal ends the process at once. In a run of several processes JAX hears the SIGTERM, and
SIGINT ends a process at once.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from flaxcifar.errors import Interrupted

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """The first signal that came, if one has."""

    def __init__(self) -> None:
        self.number: int | None = None

    def check(self) -> None:
        """Raises Interrupted where a signal has come."""
        if self.number is not None:
            raise Interrupted(self.number)

    def _receive(self, number: int, _: object) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nflaxcifar: stopping after this step; once more to stop at once\n")


class _Preemption(Interruption):
    """A SIGTERM that any process of the run has received, heard by all at the same check.

    JAX's preemption service listens for it and settles at which; the checks must come in the same
    order in all processes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._checks = 0

    def check(self) -> None:
        self._checks += 1
        if multihost_utils.reached_preemption_sync_point(self._checks):
            raise Interrupted(signal.SIGTERM)


# That of the main thread.
_current: Interruption | None = None


@contextlib.contextmanager
def postponed() -> Iterator[Interruption]:
    """Within, signals wait for the next `check`.

    They reach the main thread only: other threads see what comes while that is in here, too.
    """
    global _current
    if jax.process_count() > 1:
        yield _Preemption()
        return
    if threading.current_thread() is not threading.main_thread():
        yield _current or Interruption()
        return
    _current = interruption = Interruption()
    before = {number: signal.signal(number, interruption._receive) for number in _SIGNALS}
    try:
        yield interruption
    finally:
        _current = None
        for number, handler in before.items():
            signal.signal(number, handler)
