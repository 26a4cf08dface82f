"""Runs of several processes on this machine, over Gloo."""

import argparse
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import processes_worker
import pytest
import tiny

from flaxcifar.cli import train
from flaxcifar.devices import parallel, processes
from flaxcifar.errors import UserError
from flaxcifar.training.loop import train_and_evaluate

# Processes are forked from one that has imported everything.
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["processes_worker"])


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def start(jobs, count, devices=1):
    """Starts `count` processes, which all train the jobs, [workdir, changes], one after the other.

    The changes of a job may be a list with those of each process.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    output, started = Path(tempfile.mkdtemp(dir=jobs[0][0].parent)), []
    for n in range(count):
        own = [(w, changes[n] if isinstance(changes, list) else changes) for w, changes in jobs]
        process = FORKED.Process(
            target=processes_worker.main, args=(address, count, n, devices, own, output / str(n))
        )
        process.start()
        started.append((process, output / str(n)))
    return started


def finish(started):
    """Returns how each process has ended."""
    ended = []
    for process, output in started:
        process.join(600)
        process.kill()
        process.join()
        texts = (output.with_suffix(suffix).read_text() for suffix in (".out", ".err"))
        ended.append(Ended(process.exitcode, *texts))
    return ended


def train_together(jobs, count, devices=1):
    """Returns, for every job, how it ended in each process."""
    found = finish(start(jobs, count, devices))
    parts = []
    for process in found:
        outs, errs = (re.split("\x1e(\\d+)\n", text) for text in process[1:])
        assert len(outs) == len(errs) == 2 * len(jobs) + 1, process
        parts.append(
            [Ended(int(outs[n + 1]), outs[n], errs[n]) for n in range(0, 2 * len(jobs), 2)]
        )
    return list(zip(*parts, strict=True))


def alone(workdir, **changes):
    with parallel.using(parallel.all_devices()[:4]):
        return train_and_evaluate(tiny.config(**RESIDENT | changes), workdir)


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


def assert_trained(ended):
    assert [process.code for process in ended] == [0] * len(ended), ended
    # Only one process prints.
    assert not any("epoch" in process.out for process in ended[1:])


# Quick to compile: no augmentation, half of the tiny network, no self-test of convolutions.
RESIDENT = {
    "model": dict(name="one_stage"),
    "augment": (),
    "ops.convolution": "xla",
    "data.pipeline": "resident",
}
HALF = RESIDENT | {"total_steps": 9}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run in this one process, on four devices."""
    workdir = tmp_path_factory.mktemp("straight")
    alone(workdir)
    return workdir


# Long enough to be interrupted: there is a checkpoint every five of 72 steps.
LONG = RESIDENT | {"total_epochs": 8, "checkpoint.every_steps": 5}


def start_long_run(workdir):
    """Returns the two processes of a run that has saved its first checkpoint."""
    started, end = start([[workdir, LONG]], 2, devices=2), time.monotonic() + 300
    while not any(workdir.glob("checkpoints/latest/[0-9]*")):
        if time.monotonic() > end or not started[0][0].is_alive():
            for process, _ in started:
                process.kill()
            pytest.fail(f"no checkpoint: {finish(started)}")
        time.sleep(0.02)
    return started


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of which one process got a SIGTERM, and how both have ended."""
    workdir = tmp_path_factory.mktemp("stopped")
    started = start_long_run(workdir)
    os.kill(started[1][0].pid, signal.SIGTERM)
    return workdir, finish(started)


def kill_one(workdir, victim):
    """Returns how the other process has ended, and after how many seconds."""
    started = start_long_run(workdir)
    started[victim][0].kill()
    began = time.monotonic()
    return finish(started)[1 - victim], time.monotonic() - began


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """{victim: a run of which that process was killed, and how the other has ended}."""
    workdirs = {victim: tmp_path_factory.mktemp("killed") for victim in (0, 1)}
    return {victim: (workdir, kill_one(workdir, victim)) for victim, workdir in workdirs.items()}


@pytest.fixture(scope="module")
def pair(straight, stopped, killed, tmp_path_factory):
    """Two processes of two devices, and the jobs that they have trained: {name: how it ended}."""
    root = tmp_path_factory.mktemp("pair")
    interrupted = {
        "stopped": stopped[0],
        "first killed": killed[0][0],
        "second killed": killed[1][0],
    }
    for name, workdir in interrupted.items():
        assert not (workdir / "summary.json").exists()
        shutil.copytree(workdir, root / name)
    alone(root / "begun alone", **HALF)
    shutil.copytree(straight, root / "finished")
    jobs = {
        "straight": RESIDENT | {"data.pipeline": "host"},
        "begun together": HALF,
        "begun alone": RESIDENT,
        "finished": RESIDENT,
        "callback": RESIDENT | {"stop_at": 1},
        "another seed": [RESIDENT, RESIDENT | {"seed": 1}],
        "no dataset": [RESIDENT, RESIDENT | {"data.dir": str(root / "nowhere")}],
        "long": LONG,
        **dict.fromkeys(interrupted, LONG),
    }
    ended = train_together([[root / name, changes] for name, changes in jobs.items()], 2, devices=2)
    return root, dict(zip(jobs, ended, strict=True))


def test_two_processes_compute_what_one_does(straight, pair):
    root, ended = pair
    assert_trained(ended["straight"])
    assert "epoch 2/2" in ended["straight"][0].out
    assert_same_results(root / "straight", straight)


def test_four_processes_compute_what_one_does(straight, tmp_path):
    (ended,) = train_together([[tmp_path / "run", RESIDENT]], 4)
    assert_trained(ended)
    assert_same_results(tmp_path / "run", straight)


def test_one_process_resumes_a_run_of_two(straight, pair):
    root, ended = pair
    assert_trained(ended["begun together"])
    alone(root / "begun together")
    assert_same_results(root / "begun together", straight)


def test_two_processes_resume_a_run_of_one(straight, pair):
    root, ended = pair
    assert_trained(ended["begun alone"])
    assert "resumed after step 9" in ended["begun alone"][0].out
    assert_same_results(root / "begun alone", straight)


def test_a_callback_of_the_first_stops_all(straight, pair):
    root, ended = pair
    assert_trained(ended["callback"])
    first, second = ended["callback"]
    assert "callback: epoch 1" in first.out and "callback" not in second.out
    assert json.loads((root / "callback/summary.json").read_text())["steps"] == 9
    alone(root / "callback")
    assert_same_results(root / "callback", straight)


def test_a_finished_run_is_finished_for_all(straight, pair):
    root, ended = pair
    assert_trained(ended["finished"])
    assert "nothing to do" in ended["finished"][0].out
    summaries = [
        (workdir / "summary.json").read_bytes() for workdir in (straight, root / "finished")
    ]
    assert summaries[0] == summaries[1]


@pytest.mark.parametrize(
    ("job", "words"),
    [("another seed", "differ in their config"), ("no dataset", "cannot read .*nowhere")],
)
def test_processes_that_disagree_all_end_before_training(pair, job, words):
    root, ended = pair
    for process in ended[job]:
        assert process.code == 2 and re.search(words, process.err), process
        assert "Traceback" not in process.err
    assert not (root / job / "checkpoints").exists()


def test_a_sigterm_to_one_stops_all_after_the_same_step(stopped):
    workdir, ended = stopped
    assert [process.code for process in ended] == [143, 143], ended
    assert all("SIGTERM: stopped; the same command resumes it" in process.err for process in ended)
    steps = sorted(int(path.name) for path in (workdir / "checkpoints/latest").glob("[0-9]*"))
    # The last is one that no timetable asked for, but by chance.
    saved = json.loads((workdir / f"checkpoints/latest/{steps[-1]}/record.json").read_text())
    done = len(saved["history"]) * 9
    assert done <= steps[-1] <= done + 9


@pytest.mark.parametrize("victim", [0, 1])
def test_the_other_ends_when_one_dies(killed, victim):
    _, (survivor, seconds) = killed[victim]
    assert seconds < processes.SILENCE + 10
    assert survivor.code != 0
    assert re.search("another process of the run has ended|another task died", survivor.err)


@pytest.mark.parametrize("job", ["stopped", "first killed", "second killed"])
def test_interrupted_runs_of_two_resume_to_the_same_results(pair, job):
    root, ended = pair
    assert_trained(ended[job])
    assert "resumed after step" in ended[job][0].out
    assert results(root / job) == results(root / "long")


def test_processes_start_with_everything_imported():
    code = "import sys; sys.exit('processes_worker' not in sys.modules)"
    process = FORKED.Process(target=exec, args=(code,))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_flags_that_are_incomplete_are_named():
    parser = argparse.ArgumentParser()
    processes.add_flags(parser)
    with pytest.raises(UserError, match="must be given together"):
        processes.start(parser.parse_args(["--num_processes", "2", "--process_id", "0"]))
    with pytest.raises(UserError, match="must be given together"):
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


class KubernetesApi:
    """What JAX asks the Kubernetes API for, from the second pod of an indexed job of two."""

    class ApiException(Exception):
        status, reason = 403, "Forbidden"

    def __init__(self, allowed):
        self.allowed = allowed

    def list_namespaced_pod(self, namespace, field_selector):
        assert field_selector == "status.podIP=127.0.0.1"
        if not self.allowed:
            raise self.ApiException
        owner = SimpleNamespace(controller=True, kind="Job")
        labels = {"job-name": "flaxcifar"}
        metadata = SimpleNamespace(labels=labels, owner_references=[owner])
        pod = SimpleNamespace(metadata=metadata, spec=SimpleNamespace(subdomain="pods"))
        return SimpleNamespace(items=[pod])

    def read_namespaced_job(self, name, namespace):
        metadata = SimpleNamespace(name=name, labels={"app": "flaxcifar"})
        return SimpleNamespace(metadata=metadata, spec=SimpleNamespace(parallelism=2))


@pytest.fixture
def pod(monkeypatch):
    """The environment of a pod: `pod(allowed)` says whether it may use the API."""
    from jax._src.clusters.k8s_cluster import K8sCluster

    def enter(allowed):
        api = KubernetesApi(allowed)
        exceptions = SimpleNamespace(ApiException=api.ApiException)
        client = SimpleNamespace(
            CoreV1Api=lambda: api, BatchV1Api=lambda: api, exceptions=exceptions
        )
        configured = SimpleNamespace(load_incluster_config=lambda: None)
        module = SimpleNamespace(config=configured, client=client)
        monkeypatch.setitem(sys.modules, "kubernetes", module)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        monkeypatch.setenv("HOSTNAME", "flaxcifar-1")
        monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
        monkeypatch.setattr(socket, "gethostbyname", lambda name: "127.0.0.1")
        monkeypatch.setattr(K8sCluster, "_namespace", lambda: "default")
        monkeypatch.setattr("time.sleep", lambda seconds: None)

    cached = [K8sCluster._pod, K8sCluster._job, K8sCluster._controller]
    yield enter
    for method in cached:
        method.__func__.cache_clear()


def start_detected(monkeypatch, *flags):
    """Returns what JAX detects: address of process 0, number of processes, this one's number."""
    from jax._src.clusters import ClusterEnv

    found = []

    def initialize(coordinator, count, number, **timeouts):
        seconds = timeouts["initialization_timeout"]
        found.append(
            ClusterEnv.auto_detect_unset_distributed_params(
                coordinator, count, number, None, None, seconds
            )[:3]
        )

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    parser = argparse.ArgumentParser()
    processes.add_flags(parser)
    processes.start(parser.parse_args(flags))
    return found


def test_jax_finds_the_pods_of_a_kubernetes_job(pod, monkeypatch):
    pod(allowed=True)
    assert start_detected(monkeypatch, "--distributed") == [("flaxcifar-0.pods:55527", 2, 1)]


def test_a_pod_by_itself_trains_by_itself(pod, monkeypatch):
    pod(allowed=True)
    assert start_detected(monkeypatch) == []


def test_a_service_account_without_permission_is_one_line(pod, monkeypatch):
    pod(allowed=False)
    with pytest.raises(UserError, match="could not connect .*403 - Forbidden.*service account"):
        start_detected(monkeypatch, "--distributed")


def test_the_example_of_kubernetes_has_what_jax_asks_for():
    documents = (Path(__file__).parents[2] / "docs/kubernetes.yaml").read_text().split("---\n")
    service, job = documents[-2:]
    assert "completionMode: Indexed" in job and "subdomain: flaxcifar" in job
    assert "clusterIP: None" in service and "job-name: flaxcifar" in service
    (arguments,) = re.findall(r"args: \[(.*)\]", job)
    flags, _ = train.parser().parse_known_args(arguments.split(", ")[1:])
    assert flags.distributed and flags.config == "vgg"


def test_one_process_decides_for_itself():
    decision = processes.Decision()
    assert [decision(flag) for flag in (True, False)] == [True, False]
    assert processes.from_first(lambda: {"x": 1}) == {"x": 1}
    with pytest.raises(UserError, match="mine"), processes.together():
        raise UserError("mine")
