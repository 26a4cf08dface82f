"""Rows of results: JSON lines with everything needed to judge or repeat a measurement."""

import datetime
import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.jobs import ROOT, Job
from flaxcifar.errors import UserError
from flaxcifar.training import provenance

RESULTS = ROOT / "benchmarks" / "results"
# Identifies the rows of one command.
RUN = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def available_cpus() -> int:
    """Returns the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def cpu_name() -> str:
    """Returns the processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def common(benchmark: str, job: Job, described: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that all rows have.

    Args:
      benchmark: name of the benchmark.
      job: the job.
      described: device, convolution and versions as reported by the process.
    """
    device = described["device"]
    return {
        "benchmark": benchmark,
        "model": job.model,
        "framework": job.framework,
        "convolution": described["convolution"],
        "precision": job.precision,
        "batch": job.batch,
        "dataset": job.dataset,
        "device": cpu_name() if device == "cpu" else device,
        "threads": job.threads,
        "versions": {"python": platform.python_version(), **described["versions"]},
        "commit": provenance.commit() or "unknown",
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns minimum, quartiles and maximum."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values
    return {"min": min(values), "q1": quartiles[0], "q3": quartiles[-1], "max": max(values)}


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Appends rows to a file of JSON lines, with the time at which this command started."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for row in rows:
            file.write(json.dumps(row | {"run": RUN}) + "\n")


def collect(path: Path, batches: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Appends batches of rows to a file as they are measured, and returns all rows.

    Raises:
      UserError: there are no rows.
    """
    rows = []
    for batch in batches:
        append(path, batch)
        rows += batch
    if not rows:
        raise UserError("nothing was measured, because all frameworks failed")
    return rows
