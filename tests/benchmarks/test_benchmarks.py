"""The benchmarks, with workers that do not compute."""

import dataclasses

import jax
import pytest
import quick
from fake_worker import FakeWorker, fake, run  # noqa: F401

from benchmarks import (
    checkpoints,
    freezing,
    input_pipeline,
    jobs,
    processes,
    records,
    startup,
    throughput,
)
from benchmarks.jobs import Job
from benchmarks.peers import flaxcifar_peer
from benchmarks.processes import Worker, WorkerError
from flaxcifar.devices import parallel
from flaxcifar.errors import UserError

COMMON = (
    "benchmark model framework convolution precision batch dataset device threads versions commit "
    "run n spread quick"
).split()


def test_throughput_writes_what_it_promises(tmp_path, capsys):
    flags = ("--models", "crcv", "--precision", "float32,bfloat16", "--batch", "10")
    rows = run(throughput, tmp_path, *flags, "--frameworks", "flaxcifar,keras-tensorflow,torch")
    assert [(row["framework"], row["precision"]) for row in rows] == [
        (framework, precision)
        for precision in ("float32", "bfloat16")
        for framework in ("flaxcifar", "keras-tensorflow")
    ]
    row = rows[0]
    promised = ("peak_memory_mb", "compile_seconds", "inference_images_per_second", "first_loss")
    assert {*COMMON, *promised, "parameters", "images_per_second"} <= row.keys()
    assert row["images_per_second"] == pytest.approx(1000)
    assert row["spread"].keys() == {"min", "q1", "q3", "max"}
    assert rows[1]["images_per_second"] == pytest.approx(500)
    assert row["matrix_share"] is None
    assert "torch: skipped, torch is not installed" in capsys.readouterr().out


def test_an_accelerators_rows_give_the_share_of_its_matrix_rate(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(FakeWorker, "device", "a GPU")
    flags = ("--models", "crcv", "--precision", "float32", "--batch", "10")
    flags += ("--frameworks", "keras-jax,flaxcifar")
    rows = run(throughput, tmp_path, *flags)
    # 2e9 operations an image, 500 and 1000 images/s, of 4e12 a second.
    assert [row["matrix_share"] for row in rows] == pytest.approx([0.25, 0.5])
    monkeypatch.setattr(FakeWorker, "broken", {"flaxcifar": "matrix_rate"})
    rows = run(throughput, tmp_path, *flags)
    assert [row["matrix_share"] for row in rows[2:]] == [None, None]
    assert "matrix products: cannot go on" in capsys.readouterr().out


def test_the_matrix_rate_is_operations_over_the_best_time(monkeypatch):
    clock = iter((0.0, 4.0, 4.0, 6.0) + (6.0, 9.0) * 8)
    monkeypatch.setattr(flaxcifar_peer.time, "perf_counter", lambda: next(clock))
    rate = flaxcifar_peer.matrix_rate("bfloat16", jax.devices()[0], size=16)
    assert rate == pytest.approx(10 * 2 * 16**3 / 2.0)


def test_frameworks_take_turns_in_alternating_order(tmp_path):
    flags = ("--models", "crcv", "--precision", "float32", "--rounds", "3")
    run(throughput, tmp_path, *flags, "--frameworks", "flaxcifar,keras-jax,keras-tensorflow")
    trained = "".join(name[6] for do, name in FakeWorker.asked if do == "train")
    # "flaxcifar"[6] is f, "keras-jax"[6] is j, "keras-tensorflow"[6] is t. The first do not count,
    # nor does the first of each pair after them.
    assert trained == "fjt" + "ttjjff" + "ffjjtt" + "ttjjff"
    closed = [name for do, name in FakeWorker.asked if do == "close"]
    assert sorted(closed) == ["flaxcifar", "keras-jax", "keras-tensorflow"]


@pytest.mark.parametrize("when", ["start", "describe", "warm_up", "train", "infer", "loss"])
def test_a_framework_that_fails_is_left_out(when, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(FakeWorker, "broken", {"keras-jax": when})
    flags = ("--models", "crcv", "--precision", "float32")
    rows = run(throughput, tmp_path, *flags, "--frameworks", "keras-jax,flaxcifar")
    assert [row["framework"] for row in rows] == ["flaxcifar"]
    assert "keras-jax: skipped" in capsys.readouterr().out


def test_freezing_compares_with_nothing_frozen(tmp_path):
    rows = run(freezing, tmp_path, "--models", "vgg16", "--frameworks", "flaxcifar")
    assert [row["frozen"] for row in rows] == ["nothing", "all convolutions"]
    assert [row["speedup"] for row in rows] == pytest.approx([1.0, 2.0])
    assert {*COMMON, "peak_memory_mb", "step_seconds"} <= rows[0].keys()


def test_the_levels_of_freezing_end_before_the_head():
    assert list(freezing.levels("vgg16"))[-2:] == ["all convolutions", "all but the head"]
    assert list(freezing.levels("crcv")) == [
        "nothing",
        "up to stage1",
        "up to stage2",
        "up to stage3",
        "all convolutions",
    ]
    assert freezing.levels("resnet")["up to stage1"] == "stem|stage1"


def test_input_pipelines_are_shares_of_the_bare_step(tmp_path):
    flags = ("--models", "crcv", "--batch", "10", "--frameworks", "flaxcifar,keras-tensorflow")
    rows = run(input_pipeline, tmp_path, *flags)
    assert [row["pipeline"] for row in rows[:3]] == ["bare step", "host", "host, augmented"]
    assert rows[2]["share_of_bare_step"] == pytest.approx(0.1)
    assert rows[-1]["share_of_bare_step"] == pytest.approx(0.2)
    assert [row["augmented"] for row in rows[-3:]] == [False, True, True]
    assert {*COMMON, "images_per_second", "share_spread"} <= rows[0].keys()


def test_startup_writes_cold_and_warm(tmp_path, monkeypatch):
    seen = []

    def answer(job, steps, caches):
        seen.append((job.framework, caches))
        described = dict(device="cpu", convolution=None, versions={}, steps=steps)
        return described | dict(imported=1.0, first_step=2.0, finished=len(seen))

    monkeypatch.setattr(startup, "run", answer)
    rows = run(startup, tmp_path, "--models", "crcv", "--frameworks", "flaxcifar,keras-jax")
    assert {(row["framework"], row["state"]) for row in rows} == {
        (framework, state) for framework in ("flaxcifar", "keras-jax") for state in ("cold", "warm")
    }
    # Every cold run has its own empty directory, which the following warm run reuses.
    assert [a == b for a, b in zip(seen[::2], seen[1::2], strict=True)] == [True] * 4
    assert len(set(seen)) == 4
    promised = {"first_step_seconds", "finished_seconds", "finished_spread"}
    assert {*COMMON, *promised} - {"spread"} <= rows[0].keys()


def test_the_cost_of_a_save_is_its_stop_plus_the_slowdown_of_the_steps():
    job = Job("flaxcifar", model="vgg16", batch=128)
    described = dict(device="cpu", convolution=None, versions={}, steps=4, megabytes=120.0)
    # One step of the last pair was slow for an unrelated reason.
    saving = [[0.2, 1.1, 1.0], [0.3, 1.1, 1.0], [0.2, 1.1, 1.9]]
    without = [[0.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]
    row = checkpoints.make_row(job, described | {"with": saving, "without": without}, quick=False)
    assert row["stop_seconds"] == pytest.approx(0.2)
    assert row["seconds_per_save"] == pytest.approx(0.3)
    assert row["share_of_30_seconds"] == pytest.approx(0.01)
    assert "1.00 %" in list(checkpoints.table([row]).columns[-1].cells)


def test_stretches_with_and_without_a_save_are_paired(monkeypatch):
    monkeypatch.setattr(jobs, "recipe", lambda job: quick.config())
    monkeypatch.setattr(checkpoints, "use_threads", lambda threads: None)
    with parallel.using(jax.devices()[:1]):
        job = dataclasses.asdict(Job("flaxcifar", batch=16))
        found = checkpoints.work(job=job, pairs=2, seconds=0.3)
    assert len(found["with"]) == len(found["without"]) == 2
    assert {len(seconds) for seconds in found["with"] + found["without"]} == {found["steps"] + 1}
    assert found["steps"] >= 2 and found["megabytes"] > 0


def test_bad_flags_are_refused(tmp_path):
    for flags, message in (
        (("--frameworks", "tensorflow"), "unknown framework 'tensorflow'"),
        (("--models", "lenet"), "unknown model 'lenet'"),
        (("--precision", "float16"), "float16"),
        (("--rounds", "-1"), "--rounds must be at least 1"),
        (("--frameworks", "torch"), "none is installed"),
    ):
        with pytest.raises(UserError, match=message):
            throughput.main([*flags, "--output", str(tmp_path / "rows.jsonl")])


def test_a_name_chooses_the_convolutions_and_the_scan():
    job = Job("flaxcifar-jax-scan", convolution="xla")
    assert (job.family, job.backend, job.steps_per_dispatch) == ("flaxcifar", "jax", 4)
    assert jobs.recipe(job).ops.convolution == "jax"
    job = dataclasses.replace(job, framework="flaxcifar")
    assert (job.backend, job.steps_per_dispatch) == ("xla", 1)
    assert Job("keras-jax", convolution="xla").backend == "auto"


def test_the_recipe_has_no_augmentation_or_averaging():
    settings = jobs.recipe(Job("flaxcifar", model="vgg16", frozen="stage1|stage2"))
    assert settings.augment == () and not settings.ema_decay and settings.l2.coefficient == 5e-4
    assert settings.optimizer.name == "sgd" and settings.optimizer.nesterov
    assert settings.param_groups == (("stage1|stage2", "frozen"),)
    assert jobs.recipe(Job("flaxcifar", model="resnet")).optimizer.name == "adam"


def test_a_failing_worker_reports_why():
    with pytest.raises(WorkerError, match="No module named 'benchmarks.peers.nobody_peer'"):
        Worker(Job("nobody"))


def test_a_worker_that_dies_is_noticed(monkeypatch):
    monkeypatch.setattr(processes.sys, "executable", "/bin/false")
    with pytest.raises(WorkerError, match="ended with code 1: no message"):
        Worker(Job("flaxcifar"))


def test_the_spread():
    assert records.spread([3.0]) == {"min": 3.0, "q1": 3.0, "q3": 3.0, "max": 3.0}
    assert records.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == {"min": 1, "q1": 2, "q3": 4, "max": 5}
