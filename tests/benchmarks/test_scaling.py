"""Scaling: real steps in two layouts, and the shares of the wrappers."""

import sys

import jax
import pytest
import quick

from benchmarks import scaling
from benchmarks.jobs import ROOT, Job
from benchmarks.processes import WorkerError

JOB = Job(framework="flaxcifar", model="crcv", batch=16, threads=2)


# Runs `-m MODULE ARGUMENTS`, where the recipe of every job is a small network.
PYTHON = f"""#!{sys.executable}
import runpy, sys
sys.path[:0] = {[str(ROOT), str(ROOT / "tests")]}
import quick
from benchmarks import jobs
jobs.recipe = lambda job: quick.config(batch_size=job.batch)
sys.argv[:] = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__")
"""


def test_two_processes_and_two_devices_see_the_same_losses(tmp_path, monkeypatch):
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (one,) = scaling.run_layout(JOB, 1, 2)
    two = scaling.run_layout(JOB, 2, 1)
    assert len(set(one["losses"])) == len(one["losses"]) == 6
    assert [found["losses"] for found in two] == [pytest.approx(one["losses"], rel=1e-4)] * 2
    # At least the gradients: 276 parameters of 4 bytes.
    assert one["collectives"] >= 1 and one["sent_bytes"] > 4 * 276


def test_deviations_are_from_one_device(monkeypatch):
    def found(job, processes, devices):
        losses = [4.0, 2.0] if processes * devices == 1 else [4.0, 2.002]
        described = {"device": "cpu", "convolution": "jax", "versions": {}}
        return [described | {"losses": losses, "sent_bytes": 8, "collectives": 1}] * processes

    monkeypatch.setattr(scaling, "run_layout", found)
    options = type("Options", (), {"quick": False})
    rows = scaling.layouts(JOB, options)
    assert [(row["processes"], row["devices"]) for row in rows][:4] == [
        (1, 1),
        (1, 2),
        (1, 4),
        (1, 8),
    ]
    assert rows[0]["deviation"] == 0
    assert rows[1]["deviation"] == pytest.approx(0.001)


def test_processes_that_disagree_are_an_error(monkeypatch):
    answers = [{"losses": [1.0]}, {"losses": [1.1]}]
    monkeypatch.setattr(scaling, "run_layout", lambda *_: answers)
    with pytest.raises(WorkerError, match="different losses"):
        scaling.layouts(JOB, type("Options", (), {"quick": True}))


def test_wrappers_are_shares_of_jit_turn_by_turn(monkeypatch):
    rates = {"jit": [10.0, 20.0, 10.0], "pmap": [9.0, 20.0, 9.9], "shard_map": [10.0, 20.0, 10.0]}
    described = {"device": "cpu", "convolution": "jax", "versions": {}, "rates": rates}
    monkeypatch.setattr(scaling, "run_module", lambda *_, **__: described)
    options = type("Options", (), {"quick": False, "rounds": 3, "seconds": 1.0})
    rows = {row["wrapper"]: row for row in scaling.wrappers(JOB, options)}
    assert rows["pmap"]["of_jit"] == pytest.approx(0.99)
    assert rows["pmap"]["of_jit_spread"]["min"] == pytest.approx(0.9)
    table = scaling.table(list(rows.values()))
    assert "0.990 (0.900-1.000)" in list(table.columns[-1].cells)


def test_all_wrappers_are_timed(monkeypatch):
    monkeypatch.setattr("benchmarks.jobs.recipe", lambda job: quick.config(batch_size=8))
    monkeypatch.setattr("flaxcifar.devices.parallel.all_devices", lambda: tuple(jax.devices()[:1]))
    found = scaling._time(JOB, rounds=2, seconds=0.05)
    assert found["rates"].keys() == set(scaling.WRAPPERS)
    assert all(len(rates) == 2 and min(rates) > 0 for rates in found["rates"].values())
