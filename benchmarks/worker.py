"""Worker process of one framework: reads commands and writes answers as JSON lines.

    python -m benchmarks.worker

The first line is a `Job`. The others are commands {"do": name, ...}: a method of `Session` and its
keyword arguments. Standard output is reserved for answers; anything that libraries print goes to
standard error.
"""

import importlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.jobs import Job


class Session:
    """A running job. Every method is a command and returns its answer."""

    def __init__(self, job: Job):
        module = importlib.import_module(f"benchmarks.peers.{job.family}_peer")
        self._peer = module.make(job)

    def describe(self) -> dict[str, Any]:
        """Describes the network and returns its loss before the first step."""
        return {
            "parameters": self._peer.parameters,
            "first_loss": self._peer.first_loss(),
            "device": self._peer.device,
            "convolution": self._peer.convolution,
            "training_flops": self._peer.training_flops,
            "versions": versions(self._peer.packages),
        }

    def warm_up(self) -> dict[str, Any]:
        """Compiles the training step. Its time is that of the first call minus a steady one."""
        first = self.train(1)["seconds"]
        steady = min(self.train(1)["seconds"] for _ in range(2))
        steps = self._peer.steps_per_call
        return {"compile_seconds": max(first - steady, 0.0), "step_seconds": steady / steps}

    def train(self, steps: int) -> dict[str, Any]:
        """Times training steps, rounded up to whole calls, and returns peak memory."""
        steps = math.ceil(steps / self._peer.steps_per_call) * self._peer.steps_per_call
        began = time.perf_counter()
        loss = self._peer.train(steps)
        seconds = time.perf_counter() - began
        if not math.isfinite(loss):
            raise FloatingPointError(f"loss must be finite, got {loss}")
        on_device = self._peer.device_memory()
        return {
            "steps": steps,
            "seconds": seconds,
            "peak_memory_mb": peak_memory_mb(),
            "peak_device_memory_mb": on_device and on_device / 2**20,
        }

    def infer(self, steps: int) -> dict[str, Any]:
        """Times forward passes."""
        began = time.perf_counter()
        self._peer.infer(steps)
        return {"steps": steps, "seconds": time.perf_counter() - began}

    def matrix_rate(self) -> dict[str, Any]:
        """Measures large matrix products."""
        return {"matrix_rate": self._peer.matrix_rate()}

    def fit(self, **options: Any) -> dict[str, Any]:
        """Runs the framework's own training loop."""
        return {"images_per_second": self._peer.fit(**options)}


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Returns the versions of importable packages by name."""
    return {name: importlib.import_module(name).__version__ for name in packages}


def answer(function: Callable[..., Any]) -> None:
    """Calls a function with the JSON object on standard input and prints its result as JSON."""
    print(json.dumps(function(**json.load(sys.stdin))))


def peak_memory_mb() -> float:
    """Returns the peak resident memory of this process.

    On Linux `ru_maxrss` is inherited from the parent process, so /proc is read instead.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    import resource  # does not exist on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def main() -> None:
    """Answers commands until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    session, idle_since = None, time.process_time()
    for line in sys.stdin:
        request = json.loads(line)
        # CPU time during the turns of other processes, which spinning threads would slow down.
        idle = time.process_time() - idle_since
        try:
            if session is None:
                job = Job(**request)
                use_threads(job.threads)
                session, found = Session(job), {}
            else:
                found = getattr(session, request.pop("do"))(**request)
            found["idle_cpu_seconds"] = idle
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), file=answers, flush=True)
        idle_since = time.process_time()


def use_threads(threads: int) -> None:
    """Restricts this process to as many CPUs as it may have threads, which all frameworks obey."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


if __name__ == "__main__":
    main()
