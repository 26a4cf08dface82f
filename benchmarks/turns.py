"""Measuring worker processes in turns."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.jobs import Job
from benchmarks.processes import Worker, WorkerError
from flaxcifar import console

# After so many seconds the pools of all frameworks have gone to sleep. OpenMP's threads spin for up
# to 0.2 s, and are left to: told to sleep at once, they would compute more slowly.
SETTLE_SECONDS = 0.5

Answer = dict[str, Any]


def skip(job: Job, reason: str) -> None:
    """Says why a framework is left out."""
    console.say(f"  {job.framework}: skipped: {reason[:300]}")


@contextlib.contextmanager
def started(
    jobs: Sequence[Job], environment: Mapping[str, str] | None = None
) -> Iterator[list[Worker]]:
    """Starts the jobs' workers one after another and ends them on exit.

    Those that cannot start are named and left out.
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
    """Yields the workers `count` times each: A B C, C B A, A B C and so on.

    What drifts over time, such as the clock of a warm CPU, then hits all alike.
    """
    for number in range(count):
        for worker in workers if number % 2 == 0 else reversed(workers):
            time.sleep(SETTLE_SECONDS)
            yield worker


def measure(
    workers: Sequence[Worker], do: str, count: int, seconds: float
) -> dict[Worker, list[Answer]]:
    """Returns the answers of `count` turns of about `seconds` each, by worker.

    `do` is "train" or "infer". Each turn begins with a step that does not count: a virtual machine
    may have given the memory of an idle process back, and a step may take seconds to get it anew.
    A worker that fails is named and left out.
    """
    answers: dict[Worker, list[Answer]] = {worker: [] for worker in workers}
    steps: dict[Worker, int] = {}
    # The first turn does not count: it says how many steps fill the others.
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
