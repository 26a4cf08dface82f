"""Runs of several processes on this machine, over Gloo."""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny

from flaxcifar import data
from flaxcifar.devices import parallel, processes
from flaxcifar.errors import UserError
from flaxcifar.training.loop import train_and_evaluate

WORKER = Path(__file__).parents[1] / "processes_worker.py"
pytestmark = pytest.mark.xdist_group("hosts")


def start(workdir, count, changes=None, devices=1):
    """Starts `count` processes; `changes` may be a list with the config of each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    if not isinstance(changes, list):
        changes = [changes or {}] * count
    flags = f"--xla_force_host_platform_device_count={devices}"
    return [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(workdir)]
            + [json.dumps(changes[n]), address, str(count), str(n)],
            env=os.environ | {"XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(count)
    ]


def finish(started):
    """Returns (exit code, stdout, stderr) of each."""
    try:
        found = [(*process.communicate(timeout=120), process.returncode) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(code, out, err) for out, err, code in found]


def run(workdir, count, changes=None, devices=1):
    found = finish(start(workdir, count, changes, devices))
    assert [code for code, _, _ in found] == [0] * count, found
    return found


def alone(workdir, **changes):
    with pytest.MonkeyPatch.context() as patch, parallel.using(parallel.all_devices()[:4]):
        patch.setattr(data, "load", lambda config: tiny.dataset())
        return train_and_evaluate(tiny.config(**changes), workdir)


def results(workdir):
    summary = json.loads((workdir / "summary.json").read_text())
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return rows, summary["test"]


def assert_same_results(one, other):
    (rows, test), (other_rows, other_test) = results(one), results(other)
    assert len(rows) == len(other_rows)
    for row, other_row in zip([*rows, test], [*other_rows, other_test], strict=True):
        assert row.keys() == other_row.keys()
        for name in row:
            np.testing.assert_allclose(row[name], other_row[name], rtol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run in this one process, on four devices."""
    workdir = tmp_path_factory.mktemp("straight")
    alone(workdir)
    return workdir


@pytest.mark.parametrize(("count", "devices", "pipeline"), [(2, 2, "host"), (4, 1, "resident")])
def test_several_processes_compute_what_one_does(straight, tmp_path, count, devices, pipeline):
    found = run(tmp_path / "run", count, {"data.pipeline": pipeline}, devices)
    assert_same_results(tmp_path / "run", straight)
    assert "epoch 2/2" in found[0][1]
    # One writes, and one speaks.
    assert not any("epoch" in out for _, out, _ in found[1:])


def test_checkpoints_go_over_from_two_processes_to_one_and_back(straight, tmp_path):
    half = {"total_steps": 9}
    run(tmp_path / "first", 2, half, devices=2)
    alone(tmp_path / "first")
    assert_same_results(tmp_path / "first", straight)
    alone(tmp_path / "second", **half)
    found = run(tmp_path / "second", 2, devices=2)
    assert "resumed after step 9" in found[0][1]
    assert_same_results(tmp_path / "second", straight)


def test_a_finished_run_is_finished_for_all(straight):
    before = (straight / "summary.json").read_bytes()
    found = run(straight, 2, devices=2)
    assert "nothing to do" in found[0][1]
    assert (straight / "summary.json").read_bytes() == before


# More steps than are needed: the run is stopped on its way.
LONG = {"total_epochs": 400, "checkpoint.every_steps": 5, "early_stopping.patience": 0}


def wait_for(path, pattern, seconds=60):
    end = time.monotonic() + seconds
    while not any(path.glob(pattern)):
        assert time.monotonic() < end, f"no {pattern} in {path}"
        time.sleep(0.05)


def test_a_sigterm_to_one_stops_all_after_the_same_step(tmp_path):
    started = start(tmp_path, 2, LONG)
    wait_for(tmp_path, "checkpoints/latest/[0-9]*")
    started[1].send_signal(signal.SIGTERM)
    found = finish(started)
    assert [code for code, _, _ in found] == [143, 143], found
    assert all("SIGTERM: stopped; the same command resumes it" in err for _, _, err in found)
    steps = sorted(int(path.name) for path in (tmp_path / "checkpoints/latest").glob("[0-9]*"))
    # The last is one that no timetable asked for, but by chance.
    saved = json.loads((tmp_path / f"checkpoints/latest/{steps[-1]}/record.json").read_text())
    done = len(saved["history"]) * 9
    assert done <= steps[-1] <= done + 9


@pytest.mark.parametrize("victim", [0, 1])
def test_the_others_end_when_one_dies(tmp_path, victim):
    started = start(tmp_path, 2, LONG)
    wait_for(tmp_path, "checkpoints/latest/[0-9]*")
    started[victim].kill()
    began = time.monotonic()
    code, _, err = finish(started)[1 - victim]
    assert time.monotonic() - began < processes.SILENCE + 10
    assert code != 0
    assert "another process of the run has ended" in err or "another task died" in err


def test_a_killed_run_of_two_goes_on_to_the_same_results(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    changes = LONG | {"total_epochs": 8}
    run(straight, 2, changes)
    started = start(killed, 2, changes)
    wait_for(killed, "checkpoints/latest/[0-9]*")
    for process in started:
        process.kill()
    finish(started)
    assert not (killed / "summary.json").exists()
    found = run(killed, 2, changes)
    assert "resumed after step" in found[0][1]
    assert results(killed) == results(straight)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "have another config"),
        ({"without_dataset": True}, "no dataset here"),
    ],
)
def test_processes_that_disagree_all_end_before_training(tmp_path, change, words):
    found = finish(start(tmp_path / "run", 2, [{}, change]))
    for code, _, err in found:
        assert code == 2, err
        assert words in err and "Traceback" not in err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_flags_that_are_incomplete_are_named():
    parser = argparse.ArgumentParser()
    processes.add_flags(parser)
    with pytest.raises(UserError, match="go together"):
        processes.start(parser.parse_args(["--num_processes", "2", "--process_id", "0"]))
    with pytest.raises(UserError, match="go together"):
        flags = ["--coordinator", "x:1", "--num_processes", "2", "--process_id", "2"]
        processes.start(parser.parse_args(flags))


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
    ],
)
def test_launchers_are_recognised(monkeypatch, variables, several):
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    started = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *a, **k: started.append(a))
    parser = argparse.ArgumentParser()
    processes.add_flags(parser)
    processes.start(parser.parse_args([]))
    assert bool(started) == several
    processes.start(parser.parse_args(["--distributed"]))
    assert len(started) == several + 1


def test_one_process_decides_for_itself():
    decision = processes.Decision()
    assert [decision(flag) for flag in (True, False)] == [True, False]
    assert processes.from_first(lambda: {"x": 1}) == {"x": 1}
    with pytest.raises(UserError, match="mine"), processes.together():
        raise UserError("mine")
