"""A process that holds one framework: reads commands as JSON lines, answers as JSON lines.

    python -m benchmarks.worker

The first line is a Job; a command is {"do": name, ...}, for a method of `Session` and its keywords.
Standard output belongs to the answers: whatever a library prints goes to standard error.
"""

import importlib
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.jobs import Job


class Session:
    """A job under way; every method is a command and returns its answer."""

    def __init__(self, job: Job):
        module = importlib.import_module(f"benchmarks.peers.{job.family}_peer")
        self._peer = module.make(job)

    def describe(self) -> dict[str, Any]:
        """Says what was built, and its loss before the first step."""
        packages = map(importlib.import_module, self._peer.packages)
        return {
            "parameters": self._peer.parameters,
            "first_loss": self._peer.first_loss(),
            "device": self._peer.device,
            "convolution": self._peer.convolution,
            "training_flops": self._peer.training_flops,
            "versions": {package.__name__: package.__version__ for package in packages},
        }

    def warm_up(self) -> dict[str, Any]:
        """Compiles the training step: what the first call took beyond a steady one."""
        first = self.train(1)["seconds"]
        steady = min(self.train(1)["seconds"] for _ in range(2))
        steps = self._peer.steps_per_call
        return {"compile_seconds": max(first - steady, 0.0), "step_seconds": steady / steps}

    def train(self, steps: int) -> dict[str, Any]:
        """Times training steps, rounded up to whole calls; memory is the peak so far."""
        steps = math.ceil(steps / self._peer.steps_per_call) * self._peer.steps_per_call
        began = time.perf_counter()
        loss = self._peer.train(steps)
        seconds = time.perf_counter() - began
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss became {loss}")
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


def peak_memory_mb() -> float:
    """Returns the largest resident size of this process.

    Linux's `ru_maxrss` would begin at what the parent had when it started this process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    import resource  # not everywhere

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def main() -> None:
    """Answers until standard input ends or a command fails."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    session, idle_since = None, time.process_time()
    for line in sys.stdin:
        request = json.loads(line)
        # What this process computed while the others had their turns: libraries that wait by
        # spinning would slow them down.
        idle = time.process_time() - idle_since
        try:
            if session is None:
                job = Job(**request)
                use_threads(job.threads)
                session, answer = Session(job), {}
            else:
                answer = getattr(session, request.pop("do"))(**request)
            answer["idle_cpu_seconds"] = idle
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
        idle_since = time.process_time()


def use_threads(threads: int) -> None:
    """Keeps this process on as many CPUs as it may have threads; all frameworks notice."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


if __name__ == "__main__":
    main()
