"""Worker processes and other child processes of benchmarks."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.jobs import ROOT, Job
from flaxcifar.devices.memory import huge_pages_environment
from flaxcifar.errors import RunError

# Read by libraries when they are loaded. Others use the number of available CPUs.
_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


class WorkerError(RunError):
    """A child process failed. The message has one line."""


class Worker:
    """A process with the network of one framework, which is idle between commands."""

    def __init__(self, job: Job, environment: Mapping[str, str] | None = None):
        """Starts the process and waits until the network is built.

        Raises:
          WorkerError: the network cannot be built.
        """
        self.job = job
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env=child_environment(job) | dict(environment or {}),
        )
        try:
            self._send(dataclasses.asdict(job))
        except WorkerError:
            self.close()
            raise

    def ask(self, do: str, **keywords: Any) -> dict[str, Any]:
        """Returns the answer to a command of `benchmarks.worker`.

        Raises:
          WorkerError: the command failed or the process died.
        """
        return self._send({"do": do, **keywords})

    def _send(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._log.seek(0)
            raise WorkerError(last_words(self._process.wait(), self._log.read()))
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(" ".join(answer["error"].split()))
        return answer

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()


def child_environment(job: Job) -> dict[str, str]:
    """Returns the environment of a job's process."""
    environment = dict(os.environ)
    for variable in _THREADS:
        environment[variable] = str(job.threads)
    if job.framework.startswith("keras-"):
        environment["KERAS_BACKEND"] = job.framework.removeprefix("keras-")
    if job.family == "flaxcifar":
        environment |= huge_pages_environment()  # as its commands do
    # Several processes may share an accelerator.
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    environment["TF_CPP_MIN_LOG_LEVEL"] = "2"
    return environment


def compilation_cache(directory: Path | str) -> dict[str, str]:
    """Returns environment variables that make JAX cache all compiled programs in a directory."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(directory),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def last_words(code: int, log: str) -> str:
    """Describes the failure of a process in one line, with the last line of its log."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return f"ended with code {code}: {lines[-1] if lines else 'no message'}"


def run_module(
    job: Job, request: Any, *words: str, environment: Mapping[str, str] | None = None
) -> Any:
    """Runs a module in a new process with the environment of a job.

    Args:
      job: the job.
      request: sent to standard input as JSON.
      *words: the module and its arguments.
      environment: additional environment variables.

    Returns:
      The last line of its standard output, which is JSON.

    Raises:
      WorkerError: the process failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", *words],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=child_environment(job) | dict(environment or {}),
    )
    if done.returncode:
        raise WorkerError(last_words(done.returncode, done.stderr))
    return json.loads(done.stdout.splitlines()[-1])


def write_arrays(job: Job, directory: Path) -> tuple[Job, float]:
    """Writes the arrays that all frameworks start from; returns the job with them, and its loss."""
    path = directory / "arrays.npz"
    loss = run_module(job, dataclasses.asdict(job), "benchmarks.peers.reference", str(path))
    return dataclasses.replace(job, arrays=str(path)), loss
