"""A benchmark worker that does not compute."""

import importlib.util
import json

import pytest

from benchmarks import freezing, input_pipeline, startup, throughput, turns
from benchmarks.processes import WorkerError


class FakeWorker:
    """Answers as a worker: flaxcifar is twice as fast as the others, and freezing halves the time.

    The first answer after another worker's turn takes ten times as long.
    """

    asked: list[tuple[str, str]] = []
    broken: dict[str, str] = {}
    device = "cpu"

    def __init__(self, job, environment=None):
        if self.broken.get(job.framework) == "start":
            raise WorkerError("cannot start")
        self.job = job
        self.seconds = (0.01 if job.family == "flaxcifar" else 0.02) / (2 if job.frozen else 1)

    def ask(self, do, **options):
        idle = self.asked and self.asked[-1][1] != self.job.framework
        self.asked.append((do, self.job.framework))
        if self.broken.get(self.job.framework) == do:
            raise WorkerError("cannot go on")
        steps = options.get("steps", 1)
        taken = self.seconds * steps * (10 if idle else 1)
        seconds = {"seconds": taken, "steps": steps, "idle_cpu_seconds": 0.0}
        loss = 5.0 if self.broken.get(self.job.framework) == "loss" else 4.0
        versions = {"framework": "1.0"}
        return {
            "describe": dict(
                parameters=7,
                first_loss=loss,
                device=self.device,
                convolution="xla",
                versions=versions,
                training_flops=2e9 if self.job.family == "flaxcifar" else None,
            ),
            "warm_up": dict(compile_seconds=3.0, step_seconds=self.seconds),
            "train": seconds | dict(peak_memory_mb=100.0, peak_device_memory_mb=None),
            "infer": seconds,
            "matrix_rate": dict(matrix_rate=4e12),
            "fit": dict(images_per_second=100.0),
        }[do]

    def close(self):
        self.asked.append(("close", self.job.framework))


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(turns, "Worker", FakeWorker)
    monkeypatch.setattr(turns, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(FakeWorker, "asked", [])
    monkeypatch.setattr(FakeWorker, "broken", {})
    for module in (throughput, freezing, input_pipeline, startup):
        monkeypatch.setattr(module, "write_arrays", lambda job, directory: (job, 4.0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else name)


def run(module, tmp_path, *flags):
    output = tmp_path / "rows.jsonl"
    module.main(["--quick", "--output", str(output), *flags])
    assert output.with_suffix(".png").stat().st_size > 10_000
    return [json.loads(line) for line in output.read_text().splitlines()]
