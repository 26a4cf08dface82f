import json
import os
import shutil
import signal

import jax
import numpy as np
import optax
import pytest
import quick
import tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flaxcifar.config import to_json
from flaxcifar.console import TrainingProgress
from flaxcifar.devices import parallel
from flaxcifar.errors import Interrupted, RunError, UserError
from flaxcifar.inference.evaluate import evaluate
from flaxcifar.inference.trained import Trained
from flaxcifar.report import conclude_report
from flaxcifar.training import clock, loop, run_record
from flaxcifar.training.callbacks import Callback
from flaxcifar.training.experiment import build
from flaxcifar.training.loop import train_and_evaluate
from flaxcifar.training.run_state import resume_or_start
from flaxcifar.training.signals import Interruption
from flaxcifar.workdir import checkpoints
from flaxcifar.workdir.checkpoints import Checkpoints, read_best
from flaxcifar.workdir.run_folder import locked
from flaxcifar.workdir.test_logits import read_test_logits


class Killed(BaseException):
    pass


def kill_after(monkeypatch, step):
    """Ends the next run as soon as the checkpoint of `step` is on disk."""
    save = checkpoints.Checkpoints.save_latest

    def save_and_die(self, number, arrays, record):
        save(self, number, arrays, record)
        if number == step:
            self.wait()
            raise Killed

    monkeypatch.setattr(checkpoints.Checkpoints, "save_latest", save_and_die)


def summary(workdir):
    return json.loads((workdir / "summary.json").read_text())


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


FULL = {
    "model": dict(name="one_stage"),
    "total_epochs": 3,
    "checkpoint.every_steps": 4,
    "early_stopping.patience": 5,
    "schedule": dict(name="reduce_on_plateau", patience=1, factor=0.5, min_delta=0.5),
    "ema_decay": 0.9,
    "accumulation_steps": 2,
    "param_groups": (("stage1/conv", 0.5),),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    return workdir, train_and_evaluate(tiny.config(**FULL), workdir)


@pytest.mark.parametrize("step", [4, 9, 13, 17, 27])
def test_a_run_killed_within_or_after_an_epoch_goes_on_to_the_bit(
    step, uninterrupted, tmp_path, monkeypatch
):
    straight, expected = uninterrupted
    with monkeypatch.context() as patch:
        kill_after(patch, step)
        with pytest.raises(Killed):
            train_and_evaluate(tiny.config(**FULL), tmp_path)
    state = train_and_evaluate(tiny.config(**FULL), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    for path, value in jax.tree_util.tree_leaves_with_path(expected):
        got = dict(jax.tree_util.tree_leaves_with_path(state))[path]
        np.testing.assert_array_equal(got, value, err_msg=str(path))
    same = [{k: v for k, v in summary(w).items() if k != "timing"} for w in (tmp_path, straight)]
    assert same[0] == same[1]


def test_a_run_of_several_steps_a_dispatch_goes_on_to_the_bit(tmp_path, monkeypatch):
    changes = FULL | {"steps_per_dispatch": 4, "progressive_sizes": ((40, 6),)}
    expected = train_and_evaluate(tiny.config(**changes), tmp_path / "straight")
    with monkeypatch.context() as patch:
        kill_after(patch, 15)
        with pytest.raises(Killed):
            train_and_evaluate(tiny.config(**changes), tmp_path / "killed")
    state = train_and_evaluate(tiny.config(**changes), tmp_path / "killed")
    for got, want in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(got, want)
    lines = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("straight", "killed")]
    assert lines[0] == lines[1]


def test_images_read_from_disk_give_the_same_run(uninterrupted, tmp_path, monkeypatch, capsys):
    config = tiny.config(**FULL, **{"data.memory_gb": 1e-9})
    with monkeypatch.context() as patch:
        kill_after(patch, 13)
        with pytest.raises(Killed):
            train_and_evaluate(config, tmp_path / "run")
    assert "batches are read from disk" in capsys.readouterr().out
    state = train_and_evaluate(config, tmp_path / "run")
    workdir, expected = uninterrupted
    for got, want in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(got, want)
    lines = [(place / "metrics.jsonl").read_bytes() for place in (workdir, tmp_path / "run")]
    assert lines[0] == lines[1]
    assert summary(tmp_path / "run")["test"] == summary(workdir)["test"]


def test_tensorboard_shows_every_epoch_once_after_a_kill(tmp_path, monkeypatch):
    def die_unsaved(self, number, arrays, record):
        if number == 18:
            raise Killed
        save(self, number, arrays, record)

    save = checkpoints.Checkpoints.save_latest
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save_latest", die_unsaved)
        with pytest.raises(Killed):
            train_and_evaluate(tiny.config(**FULL), tmp_path)
    assert len(rows(tmp_path)) == 2  # the second epoch was written, but not saved
    train_and_evaluate(tiny.config(**FULL), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for tag, name in (("train/loss", "train_loss"), ("validation/accuracy", "validation_accuracy")):
        shown = [(event.step, event.value) for event in events.Scalars(tag)]
        written = [(row["step"], pytest.approx(row[name])) for row in rows(tmp_path)]
        assert shown == written


def test_the_summary_and_the_lines_have_what_they_promise(uninterrupted):
    workdir, state = uninterrupted
    found = summary(workdir)
    expected = {
        "steps", "epochs", "stop_reason", "parameters", "dataset", "devices", "versions",
        "validation", "test", "timing",
    }  # fmt: skip
    assert expected <= found.keys()
    assert {"images_per_second", "compile_seconds", "total_seconds"} == found["timing"].keys()
    assert found["steps"] == int(state.step) == 27 and found["epochs"] == 3
    for split, examples in (("validation", 48), ("test", 50)):
        values = found[split]
        assert {"accuracy", "top5_accuracy", "loss", "examples", "coarse_accuracy"} == values.keys()
        assert values["examples"] == examples
    assert [row["epoch"] for row in rows(workdir)] == [1, 2, 3]
    best = min(rows(workdir), key=lambda row: row["validation_loss"])
    assert found["validation"]["loss"] == best["validation_loss"]
    assert found["evaluated_step"] == best["step"]
    assert json.loads((workdir / "config.json").read_text()) == json.loads(
        json.dumps(to_json(tiny.config(**FULL)))
    )
    # min_delta makes every epoch but the first a miss, so the rate is halved after each of them.
    assert [row["learning_rate"] for row in rows(workdir)] == [0.05, 0.05, 0.025]


def test_evaluate_repeats_the_result_from_the_best_checkpoint(uninterrupted):
    workdir, _ = uninterrupted
    found = summary(workdir)
    trained = Trained.from_workdir(workdir)
    assert evaluate(trained) == {"single": found["test"]}
    assert evaluate(trained, "validation") == {"single": found["validation"]}
    views = evaluate(trained, views="mirror")
    assert views["single"] == found["test"]
    assert views["augmented"]["loss"] != found["test"]["loss"]


def test_the_logits_behind_the_test_results_are_kept(uninterrupted):
    workdir, _ = uninterrupted
    logits, labels = read_test_logits(workdir), tiny.dataset().test.labels
    assert logits.shape == (50, 4) and logits.dtype == np.float32
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    assert np.mean(logits.argmax(axis=1) == labels) == summary(workdir)["test"]["accuracy"]
    assert loss == pytest.approx(summary(workdir)["test"]["loss"], rel=1e-6)


def test_without_restore_best_everything_shows_the_last_epoch(tmp_path):
    """A learning rate at which the first epoch is the best."""
    changes = {"optimizer": dict(name="sgd", learning_rate=2.0, momentum=0.9)}
    train_and_evaluate(tiny.config(**changes, **{"early_stopping.restore_best": False}), tmp_path)
    losses = [row["validation_loss"] for row in rows(tmp_path)]
    assert losses[0] < losses[1]
    assert summary(tmp_path)["evaluated_step"] == 18
    assert summary(tmp_path)["validation"]["loss"] == losses[1]
    assert read_best(tmp_path)[1]["history"][-1]["step"] == 18


class Reporting(Callback):
    def on_end(self, run, summary):
        conclude_report(run.workdir)


@pytest.mark.parametrize("finite", [(), (9,)])
def test_without_a_finite_validation_loss_the_last_epoch_is_the_best(tmp_path, monkeypatch, finite):
    measured = loop.measure_epoch

    def measure(*args):
        row = measured(*args)
        return row | ({} if row["step"] in finite else {"validation_loss": float("nan")})

    monkeypatch.setattr(loop, "measure_epoch", measure)
    with parallel.using(jax.devices()[:1]):
        train_and_evaluate(quick.config(report=True), tmp_path, callbacks=[Reporting()])
    assert summary(tmp_path)["evaluated_step"] == (9 if finite else 18)
    assert read_best(tmp_path)[1]["history"][-1]["step"] == (9 if finite else 18)


def test_a_finished_run_with_a_damaged_checkpoint_is_an_error(uninterrupted, tmp_path, capsys):
    workdir = shutil.copytree(uninterrupted[0], tmp_path / "run")
    step = summary(workdir)["evaluated_step"]
    (workdir / f"checkpoints/best/{step}/layout.json").write_text("{}")
    said = f"finished, but .*its best, .*best/{step}/layout.json has changed.*latest/27 is intact"
    with pytest.raises(UserError, match=f"{said}; the results are kept in .*summary.json"):
        train_and_evaluate(tiny.config(**FULL), workdir)
    assert "nothing to do" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
@pytest.mark.parametrize("content", [b"\xff", b"[]"])
def test_a_damaged_file_of_a_run_is_named(uninterrupted, tmp_path, name, content):
    workdir = shutil.copytree(uninterrupted[0], tmp_path / "run")
    (workdir / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged .*move it away to continue"):
        train_and_evaluate(tiny.config(**FULL), workdir)


def test_a_run_whose_timing_is_damaged_resumes(uninterrupted, tmp_path):
    workdir = shutil.copytree(uninterrupted[0], tmp_path / "run")
    (workdir / "timing.jsonl").write_bytes(b'\xff\n[]\n{"step": "9"}\n')
    (workdir / "summary.json").unlink()
    train_and_evaluate(tiny.config(**FULL), workdir)
    assert summary(workdir)["steps"] == 27


def test_a_file_is_no_workdir(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file: choose another --workdir"):
        train_and_evaluate(quick.config(), tmp_path / "file")


def test_a_finished_run_does_nothing_and_says_so(uninterrupted, monkeypatch, capsys):
    workdir, state = uninterrupted
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*.json*")}
    monkeypatch.setattr(loop, "train", None)
    again = train_and_evaluate(tiny.config(**FULL), workdir)
    assert "finished (completed): nothing to do" in capsys.readouterr().out
    assert int(again.step) == int(state.step)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*.json*")} == before


def test_another_config_is_refused_and_nothing_changes(uninterrupted):
    workdir, _ = uninterrupted
    before = (workdir / "config.json").read_bytes()
    other = tiny.config(
        **FULL | {"batch_size": 32, "optimizer": dict(name="adam", learning_rate=1.0)}
    )
    with pytest.raises(UserError, match="batch_size was 16, now 32.*optimizer.name was 'sgd'"):
        train_and_evaluate(other, workdir)
    assert (workdir / "config.json").read_bytes() == before


def test_other_data_is_refused(uninterrupted, tmp_path):
    changes = {"total_epochs": 4, "data.dir": tiny.write(tmp_path, seed=5)}
    with pytest.raises(UserError, match="the dataset differs"):
        train_and_evaluate(tiny.config(**FULL | changes), uninterrupted[0])


def test_early_stopping_ends_on_the_patience_th_miss_with_the_best(tmp_path):
    changes = {"total_epochs": 9, "early_stopping.patience": 2, "early_stopping.min_delta": 10.0}
    train_and_evaluate(tiny.config(**changes), tmp_path)
    assert len(rows(tmp_path)) == 3
    found = summary(tmp_path)
    assert found["stop_reason"] == "early stopping"
    assert found["evaluated_step"] == 9
    assert found["validation"]["loss"] == rows(tmp_path)[0]["validation_loss"]


def test_total_steps_takes_precedence_and_may_end_within_an_epoch(tmp_path):
    config = tiny.config(total_steps=12, **{"early_stopping.restore_best": False})
    state = train_and_evaluate(config, tmp_path)
    assert int(state.step) == 12
    assert summary(tmp_path)["steps"] == summary(tmp_path)["evaluated_step"] == 12
    assert summary(tmp_path)["epochs"] == pytest.approx(12 / 9)
    assert [row["train_examples"] for row in rows(tmp_path)] == [9 * 16, 3 * 16]


def test_the_pipelines_and_several_steps_a_dispatch_train_alike(tmp_path):
    train_and_evaluate(tiny.config(), tmp_path / "host")
    changes = {"data.pipeline": "resident"}
    train_and_evaluate(tiny.config(**changes), tmp_path / "resident")
    metrics = [(tmp_path / kind / "metrics.jsonl").read_bytes() for kind in ("host", "resident")]
    assert metrics[0] == metrics[1]
    train_and_evaluate(tiny.config(**changes, steps_per_dispatch=4), tmp_path / "scan")
    for one, other in zip(rows(tmp_path / "host"), rows(tmp_path / "scan"), strict=True):
        assert other == pytest.approx(one, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    config = tiny.config(total_epochs=6)
    train_and_evaluate(config, tmp_path)
    good = {path.name for path in (tmp_path / "checkpoints" / "latest").iterdir()}
    config.total_epochs = 7
    record = json.loads((tmp_path / "config.json").read_text())
    record["optimizer"]["learning_rate"] = 1e30
    (tmp_path / "config.json").write_text(json.dumps(record))
    config.optimizer.learning_rate = 1e30
    with pytest.raises(
        RunError, match="loss of step 5[4-9].*not finite.*finite checkpoint is kept"
    ):
        train_and_evaluate(config, tmp_path)
    written = json.loads((tmp_path / "nonfinite.json").read_text())
    assert written["epoch"] == 7 and len(written["examples"]) == 16
    assert {path.name for path in (tmp_path / "checkpoints" / "latest").iterdir()} == good
    assert len(rows(tmp_path)) == 6


def test_init_from_starts_with_an_earlier_runs_best_and_drops_a_head_that_does_not_fit(
    tmp_path, capsys
):
    first = tmp_path / "first"
    train_and_evaluate(tiny.config(), first)
    best, _ = read_best(first)
    changes = {"data.dir": tiny.write(tmp_path / "data", classes=6, train=240)}
    changes |= {"init_from": str(first), "param_groups": (("stage[12]", "frozen"),)}
    config = tiny.config(**changes)
    state = train_and_evaluate(config, tmp_path / "second")
    for path, value in {**state.params, **state.batch_stats}.items():
        if path.startswith("stage"):
            np.testing.assert_array_equal(value, {**best["params"], **best["batch_stats"]}[path])
    assert state.params["head/bias"].shape == (6,)
    # By hand: 16,512 of 42,048 operations, the forward pass and the gradient of the head's kernel.
    out = capsys.readouterr().out
    assert "frozen: 1,440 of 1,542 parameters; a step takes 39 % of the operations" in out
    assert "a new head" in out


def test_bad_input_is_refused_before_anything_is_written(tmp_path):
    for changes, message in [
        ({"batch_size": 20}, "does not divide over 8 devices"),
        ({"batch_size": 160}, "batch_size must be at most 144"),
        ({"model": dict(name="vgg61")}, "unknown model 'vgg61'; did you mean 'vgg16'"),
        ({"model": dict(name="tiny", width=3)}, "model 'tiny' takes no 'width'"),
        ({"optimizer": dict(name="sgdd", learning_rate=0.1)}, "unknown optimizer 'sgdd'"),
        ({"schedule": dict(name="cosin")}, "did you mean 'cosine'"),
        ({"augment": (dict(name="cutout", sise=3),)}, "did you mean 'size'"),
        (
            {"augment": (dict(name="pad_crop", padding=9),)},
            "padding must be at most 7 here, got 9",
        ),
        ({"param_groups": (("stage9", "frozen"),)}, "no parameter matches 'stage9'"),
        ({"l2.coefficient": 1.0, "l2.pattern": "nothing"}, "no parameter matches 'nothing'"),
        ({"init_from": str(tmp_path)}, "is not the workdir of a run"),
    ]:
        with pytest.raises(UserError, match=message):
            train_and_evaluate(tiny.config(**changes), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_state_of_another_model_is_refused(tmp_path):
    train_and_evaluate(tiny.config(total_steps=1), tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    record["optimizer"] = {"name": "adam", "learning_rate": 0.1}
    (tmp_path / "config.json").write_text(json.dumps(record))
    config = tiny.config(total_steps=2, optimizer=dict(name="adam", learning_rate=0.1))
    with pytest.raises(UserError, match="another model or optimizer"):
        train_and_evaluate(config, tmp_path)


def test_a_rollback_goes_on_with_half_the_learning_rate(tmp_path, capsys):
    """A rate at which the loss overflows, though not at a quarter of it."""
    changes = {"on_nonfinite": "rollback"}
    train_and_evaluate(tiny.config(**changes, total_epochs=1), tmp_path)
    poisoned = {"count": 2}
    finite = loop.finite_means

    def sometimes(experiment, metrics, state, workdir):
        if int(state.step) == 18 and poisoned["count"]:
            poisoned["count"] -= 1
            raise loop.NonFiniteError("the loss is not finite")
        return finite(experiment, metrics, state, workdir)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "finite_means", sometimes)
        state = train_and_evaluate(tiny.config(**changes), tmp_path)
    assert "not finite Back at step 9 with half the learning rate" in capsys.readouterr().out
    assert int(state.step) == 18
    assert [row["learning_rate"] for row in rows(tmp_path)] == [0.05, 0.05 / 4]


def test_rollbacks_end(tmp_path):
    changes = {
        "on_nonfinite": "rollback",
        "optimizer": dict(name="sgd", learning_rate=1e30, momentum=0.9),
    }
    with pytest.raises(RunError, match="not finite"):
        train_and_evaluate(tiny.config(**changes), tmp_path)


def test_a_signal_saves_the_state_and_the_same_command_goes_on(
    uninterrupted, tmp_path, monkeypatch
):
    straight, _ = uninterrupted
    check, steps = Interruption.check, []
    for calls in (3, 5, 12):  # within an epoch, or its evaluation
        left = calls

        def count(self):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            check(self)

        with monkeypatch.context() as patch:
            patch.setattr(Interruption, "check", count)
            with pytest.raises(Interrupted, match="SIGTERM"):
                train_and_evaluate(tiny.config(**FULL), tmp_path)
        steps.append(max(int(path.name) for path in (tmp_path / "checkpoints/latest").iterdir()))
    assert steps == [3, 8, 18]
    train_and_evaluate(tiny.config(**FULL), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    same = [{k: v for k, v in summary(w).items() if k != "timing"} for w in (tmp_path, straight)]
    assert same[0] == same[1]


def test_two_runs_in_one_workdir_are_refused(tmp_path):
    with locked(tmp_path), pytest.raises(UserError, match="another run is using"):
        train_and_evaluate(tiny.config(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock"]


def test_a_change_that_is_named_is_allowed(uninterrupted, tmp_path, capsys):
    shutil.copytree(uninterrupted[0], tmp_path / "run")
    other = tiny.config(**FULL | {"total_epochs": 4, "label_smoothing": 0.1})
    with pytest.raises(UserError, match="--allow_change=label_smoothing"):
        train_and_evaluate(other, tmp_path / "run")
    with pytest.raises(UserError, match="no key 'label_smoothin'; did you mean 'label_smoothing'"):
        train_and_evaluate(other, tmp_path / "run", allow_change=["label_smoothin"])
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, 31)
        with pytest.raises(Killed):
            train_and_evaluate(other, tmp_path / "run", allow_change=["label_smoothing"])
    # The same command goes on, although the change is made by now.
    train_and_evaluate(other, tmp_path / "run", allow_change=["label_smoothing"])
    assert "changed: label_smoothing was 0.0, now 0.1" in capsys.readouterr().out
    assert len(rows(tmp_path / "run")) == 4


def test_the_rate_counts_the_time_of_every_step_however_often_it_is_saved(tmp_path):
    """Steps that end while their save begins are neither free nor charged for the save."""

    class Slow(clock.Clock):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs, now=lambda: ticks[0])

    ticks = [0.0]
    block, save = jax.block_until_ready, Checkpoints.save_latest

    def tick(x):
        ticks[0] += 0.5
        return block(x)

    def slow_save(*args):
        ticks[0] += 100.0
        save(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_record, "Clock", Slow)
        patch.setattr(loop.jax, "block_until_ready", tick)
        patch.setattr(Checkpoints, "save_latest", slow_save)
        train_and_evaluate(tiny.config(**{"checkpoint.every_steps": 1}), tmp_path)
    # A step of 16 images is waited for at least once and at most four times.
    assert 16 / 2.0 <= summary(tmp_path)["timing"]["images_per_second"] <= 16 / 0.5


def test_a_run_saves_every_few_steps_and_after_each_epoch(tmp_path, monkeypatch):
    saved, save = [], Checkpoints.save_latest

    def remember(self, step, arrays, record):
        saved.append(step)
        save(self, step, arrays, record)

    monkeypatch.setattr(Checkpoints, "save_latest", remember)
    train_and_evaluate(tiny.config(**FULL), tmp_path)
    assert saved == [4, 8, 9, 13, 17, 18, 22, 26, 27]


def test_too_small_a_disk_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match="has 0 MB left on its disk"):
        train_and_evaluate(tiny.config(), tmp_path)


def test_the_resident_loop_moves_nothing_but_indices_to_the_device(tmp_path, monkeypatch):
    moved = []
    compiled = loop._compiled

    def watched(recipe, devices):
        def step(*args):
            leaves = jax.tree.leaves(args)
            moved.append([leaf.shape for leaf in leaves if not isinstance(leaf, jax.Array)])
            with jax.transfer_guard("allow"):
                return compiled(recipe, devices)(*args)

        return step

    monkeypatch.setattr(loop, "_compiled", watched)
    exp = build(tiny.config(**{"data.pipeline": "resident", "steps_per_dispatch": 0}))
    with Checkpoints(tmp_path) as checkpoints:
        run = resume_or_start(exp, checkpoints, strict=False)
        session = loop.make_session(exp, tmp_path, checkpoints, Interruption())
        progress = TrainingProgress(exp.total_steps, exp.total_epochs)
        with jax.transfer_guard("disallow"):
            loop.train_epoch(session, run, 0, progress)
    # One dispatch: its number of steps, and which images.
    assert moved == [[(), (9, 16)]]
    assert run.step == 9
