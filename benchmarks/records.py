"""Rows of results: a JSON line each, with all that is needed to judge or repeat it."""

import datetime
import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.jobs import ROOT, Job
from flaxcifar.training import provenance

RESULTS = ROOT / "benchmarks" / "results"
# What one command measures belongs together.
RUN = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def available_cpus() -> int:
    """Returns how many CPUs this process may use."""
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
    """Returns the fields that every row has.

    `described` is what the process said of itself: device, convolution and versions.
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
    """Returns the extremes and quartiles."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values
    return {"min": min(values), "q1": quartiles[0], "q3": quartiles[-1], "max": max(values)}


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Adds rows to a file of JSON lines, with the time at which this command began."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for row in rows:
            file.write(json.dumps(row | {"run": RUN}) + "\n")
