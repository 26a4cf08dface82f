"""Turns SIGTERM and SIGINT into an exception at the next check, so that a run can save its state.

A second signal ends the process immediately. In a run of several processes JAX's preemption service
handles SIGTERM, and SIGINT ends a process immediately.
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
    """The first signal that arrived, if any."""

    def __init__(self) -> None:
        self.number: int | None = None

    def check(self) -> None:
        """Raises Interrupted if a signal has arrived."""
        if self.number is not None:
            raise Interrupted(self.number)

    def _receive(self, number: int, _: object) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
        # Not print: the signal may have interrupted one.
        os.write(2, b"\nflaxcifar: stopping after this step; send it again to stop now\n")


class _Preemption(Interruption):
    """A SIGTERM to any process of the run, which interrupts all of them at the same check.

    JAX's preemption service agrees on the check. All processes must check equally often.
    """

    def __init__(self) -> None:
        super().__init__()
        self._checks = 0

    def check(self) -> None:
        self._checks += 1
        if multihost_utils.reached_preemption_sync_point(self._checks):
            raise Interrupted(signal.SIGTERM)


# The interruption of the main thread.
_current: Interruption | None = None


@contextlib.contextmanager
def postponed() -> Iterator[Interruption]:
    """Context manager: postpones signals to the next `check` of the interruption it yields.

    Only the main thread receives signals. In other threads it yields the main thread's interruption
    if there is one.
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
