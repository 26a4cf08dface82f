"""Measures worker processes in turns."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.jobs import Job
from benchmarks.processes import Worker, WorkerError
from flaxcifar import console

# By then the thread pools of all frameworks sleep. OpenMP threads spin for up to 0.2 s by default.
# They would compute more slowly if they slept at once.
SETTLE_SECONDS = 0.5

Answer = dict[str, Any]


def skip(job: Job, reason: str) -> None:
    """Prints why a framework is left out."""
    console.say(f"  {job.framework}: skipped: {reason[:300]}")


@contextlib.contextmanager
def started(
    jobs: Sequence[Job], environment: Mapping[str, str] | None = None
) -> Iterator[list[Worker]]:
    """Context manager: starts the workers of jobs one after another, and ends them on exit.

    Workers that cannot start are reported and left out.
    """
    with contextlib.ExitStack() as stack:
        workers = []
        for job in jobs:
            try:
                worker = Worker(job, environment)
            except WorkerError as error:
                skip(job, str(error))
                continue
            stack.callback(worker.close)
            workers.append(worker)
        yield workers


def rounds(workers: Sequence[Worker], count: int) -> Iterator[Worker]:
    """Yields the workers `count` times each, in alternating order: A B C, C B A, A B C, ...

    Slow drifts, such as the clock rate of a warm CPU, then affect all of them equally.
    """
    for number in range(count):
        for worker in workers if number % 2 == 0 else reversed(workers):
            time.sleep(SETTLE_SECONDS)
            yield worker


def measure(
    workers: Sequence[Worker], do: str, count: int, seconds: float
) -> dict[Worker, list[Answer]]:
    """Measures workers in turns and returns their answers.

    Each turn starts with an uncounted step: a virtual machine may have reclaimed the memory of an
    idle process, which then takes seconds to get it back. Workers that fail are reported and left
    out.

    Args:
      workers: the workers.
      do: "train" or "infer".
      count: number of turns of each worker.
      seconds: approximate length of a turn.
    """
    answers: dict[Worker, list[Answer]] = {worker: [] for worker in workers}
    steps: dict[Worker, int] = {}
    # The first turn is not counted. It determines the number of steps of the others.
    for worker in rounds(workers, count + 1):
        if worker not in answers:
            continue
        try:
            first = worker.ask(do, steps=1)
            if worker in steps:
                answer = worker.ask(do, steps=steps[worker])
                idle = first["idle_cpu_seconds"]
                answers[worker].append(answer | {"idle_cpu_seconds": idle})
        except WorkerError as error:
            skip(worker.job, str(error))
            del answers[worker]
            continue
        if worker not in steps:
            steps[worker] = max(1, math.ceil(seconds * first["steps"] / first["seconds"]))
    return answers
