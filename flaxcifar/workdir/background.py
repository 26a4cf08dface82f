"""Runs saves in a thread of their own, in order."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    """A thread with a queue. An exception is raised by a later call of `wait`."""

    def __init__(self, name: str):
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._pending: list[Future] = []

    def submit(self, function: Callable[..., Any], *args: Any) -> None:
        """Queues a call."""
        self._pending.append(self._thread.submit(function, *args))

    def wait(self, max_pending: int = 0) -> None:
        """Returns when at most `max_pending` calls are left; raises what the others raised."""
        while self._pending and (len(self._pending) > max_pending or self._pending[0].done()):
            self._pending.pop(0).result()

    def close(self) -> None:
        """Returns when the queue is empty, and ends the thread."""
        self._thread.shutdown()
