import json
import os
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxcifar.errors import NonFiniteError, RunError, UserError
from flaxcifar.optim.param_groups import assign_groups, make_tx
from flaxcifar.training.step import TrainState
from flaxcifar.workdir.array_files import ArrayFiles
from flaxcifar.workdir.checkpoints import Checkpoints, read_best

RECORD = {"epoch": 3, "history": [{"loss": 0.1 + 0.2}], "plateau": None, "best_step": 0}


def make_state(value=1.0, extra=None, optimizer="adam"):
    params = {"stage1/conv/kernel": jnp.full((3, 3), float(value)), "head/bias": jnp.arange(3.0)}
    params |= extra or {}
    groups = assign_groups(params, (("stage1", "frozen"),))
    tx = make_tx({"name": optimizer, "learning_rate": 0.1}, lambda step: 1.0, groups)
    return TrainState(
        step=jnp.int32(7),
        params=params,
        batch_stats={"norm/mean": jnp.full(4, float(value))},
        opt_state=tx.init(params),
        ema={},
        learning_rate_scale=jnp.float32(0.5),
        bad_step=jnp.int32(-1),
    )


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def test_the_newest_state_comes_back_to_the_bit(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save_latest(step, make_state(step / 3), RECORD | {"epoch": step})
    with Checkpoints(tmp_path) as checkpoints:
        state, record = checkpoints.restore_latest(make_state())
    same(state, make_state(3 / 3))
    assert record == RECORD | {"epoch": 3}


def save(checkpoints, step, best_step):
    state = make_state(step)
    if step == best_step:
        checkpoints.save_best(step, state.params, state.batch_stats, RECORD)
    checkpoints.save_latest(step, state, RECORD | {"best_step": best_step})


def kernel(tree):
    return float(tree["params"]["stage1/conv/kernel"][0, 0])


def test_latest_and_best_are_kept_apart(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step, best_step in [(1, 1), (2, 2), (3, 2), (4, 2), (5, 2)]:
            save(checkpoints, step, best_step)
    best, record = read_best(tmp_path)
    assert kernel(best) == 2.0 and best["batch_stats"]["norm/mean"][0] == 2.0
    assert record == RECORD
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(make_state())[0].params["stage1/conv/kernel"][0, 0] == 5.0
    assert steps(tmp_path) == (["4", "5"], ["2"])


def steps(workdir):
    kinds = (workdir / "checkpoints" / kind for kind in ("latest", "best"))
    return tuple(sorted(path.name for path in kind.iterdir()) for kind in kinds)


def test_a_best_stays_as_long_as_a_latest_names_it(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step, best_step in [(1, 1), (2, 1), (3, 3)]:
            save(checkpoints, step, best_step)
        checkpoints.wait()
        assert steps(tmp_path) == (["2", "3"], ["1", "3"])
        save(checkpoints, 4, 3)
    assert steps(tmp_path) == (["3", "4"], ["3"])


@pytest.mark.parametrize("part", ["latest/4", "best/4"])
def test_a_damaged_checkpoint_is_skipped_with_its_best(tmp_path, part, capsys):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 3, 3)
        save(checkpoints, 4, 4)
        checkpoints.wait()
        (tmp_path / "checkpoints" / part / "record.json").write_text("{}")
        with pytest.raises(UserError, match="step 4 is damaged: .*record.json.*--strict"):
            checkpoints.restore_latest(make_state(), strict=True)
        state, record = checkpoints.restore_latest(make_state())
        assert state.params["stage1/conv/kernel"][0, 0] == 3.0 and record["best_step"] == 3
        said = capsys.readouterr().out
        assert f"step 4 is damaged: {'its best, ' * (part == 'best/4')}{tmp_path}" in said
        assert "using that of step 3" in said
        assert kernel(checkpoints.restore_best()[0]) == 3.0
        assert "using that of step 3" in capsys.readouterr().out
        with pytest.raises(UserError, match="step 4 is damaged: .*record.json.*--strict"):
            checkpoints.restore_best(strict=True)
        (tmp_path / "checkpoints" / "latest" / "3" / "manifest.json").unlink()
        with pytest.raises(
            UserError, match="record.json.*; no older one is intact: .*nothing was changed"
        ):
            checkpoints.restore_latest(make_state())


def test_a_damaged_best_without_an_older_one_is_named(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 3, 0)
        save(checkpoints, 4, 4)
    place = tmp_path / "checkpoints"
    (place / "best" / "4" / "layout.json").write_text("{}")
    with pytest.raises(UserError) as caught:
        read_best(tmp_path)
    assert f"{place}/best/4/layout.json has changed since it was written" in str(caught.value)
    assert f"while {place}/latest/4 is intact; no older one" in str(caught.value)


@pytest.mark.parametrize("record", ["", "[]", "{}", "\xff", None])
def test_a_run_whose_newest_record_is_damaged_goes_on_from_the_older_one(tmp_path, record):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 2, 2)
        save(checkpoints, 4, 4)
    path = tmp_path / "checkpoints" / "latest" / "4" / "record.json"
    path.unlink() if record is None else path.write_bytes(record.encode("latin-1"))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(make_state())[1]["best_step"] == 2
        save(checkpoints, 3, 2)
        checkpoints.wait()
        assert steps(tmp_path) == (["2", "3"], ["2", "4"])
        save(checkpoints, 5, 5)
        checkpoints.wait()
        assert steps(tmp_path) == (["3", "5"], ["2", "5"])
        (tmp_path / "checkpoints" / "latest" / "5" / "record.json").unlink()
        save(checkpoints, 6, 5)
    assert steps(tmp_path) == (["5", "6"], ["5"])


def test_numbers_that_are_not_finite_are_not_kept(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, 0)
        with pytest.raises(NonFiniteError, match="step 2"):
            checkpoints.save_latest(2, make_state(float("nan")), RECORD)
    assert sorted(os.listdir(tmp_path / "checkpoints" / "latest")) == ["1"]


def test_a_disk_without_room_for_a_checkpoint_is_not_left_to_orbax(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, 0)
        checkpoints.wait()
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**17))
        monkeypatch.setattr(ArrayFiles, "write", None)
        with pytest.raises(
            RunError, match="step 2 could not be .*No space left.*of step 1 is kept"
        ):
            save(checkpoints, 2, 0)
    assert os.listdir(tmp_path / "checkpoints" / "latest") == ["1"]


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_a_failed_save_is_raised_and_the_one_before_kept(tmp_path, monkeypatch, backend):
    """On a CPU it is written at once, elsewhere while training goes on."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, 0)
        checkpoints.wait()

        def fail(*args, **kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(ArrayFiles, "write", fail)
        with pytest.raises(
            RunError, match="step 2 could not be .*No space left.*of step 1 is kept"
        ):
            save(checkpoints, 2, 0)
            checkpoints.wait()
        monkeypatch.undo()
        save(checkpoints, 3, 0)
    assert (tmp_path / "checkpoints" / "latest" / "1").exists()


def test_many_saves_leave_threads_and_descriptors_as_they_were(tmp_path):
    def open_files():
        return len(os.listdir("/proc/self/fd"))

    state = make_state()
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(1, 16):
            checkpoints.save_latest(step, state, RECORD)
            if step == 5:
                checkpoints.wait()
                before = threading.active_count(), open_files()
        checkpoints.wait()
        assert (threading.active_count(), open_files()) <= before


def test_the_state_may_be_donated_while_it_is_saved(tmp_path):
    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        state = jax.tree.map(lambda x: x + 0, make_state(4.0))
        checkpoints.save_latest(1, state, RECORD)
        step(state)
    with Checkpoints(tmp_path) as checkpoints:
        same(checkpoints.restore_latest(make_state())[0], make_state(4.0))


def test_an_unfinished_save_is_ignored(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_latest(1, make_state(1.0), RECORD)
    latest = tmp_path / "checkpoints" / "latest"
    (latest / ".tmp-2").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.clean()
        state, _ = checkpoints.restore_latest(make_state())
        same(state, make_state(1.0))
        checkpoints.save_latest(2, make_state(2.0), RECORD)
    assert sorted(path.name for path in latest.iterdir()) == ["1", "2"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            make_state(extra={"head/kernel": jnp.ones((2, 5))}),
            r"params.head/kernel is missing there, float32\[2, 5\] here",
        ),
        (make_state(extra={"head/bias": jnp.ones(9)}), r"head/bias is float32\[3\] there, .*\[9\]"),
        (make_state(optimizer="sgd"), r"another model or optimizer .*head/bias is float32"),
    ],
)
def test_another_model_or_optimizer_is_shown_as_a_difference(tmp_path, other, message):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_latest(1, make_state(), RECORD)
        checkpoints.wait()
        with pytest.raises(UserError, match=message):
            checkpoints.restore_latest(other)


def test_a_checkpoint_of_an_earlier_flaxcifar_is_named(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_latest(1, make_state(), RECORD)
    folder = tmp_path / "checkpoints" / "latest" / "1"
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["layout.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "layout.json").unlink()
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(UserError, match="latest/1 was written by an earlier version"):
            checkpoints.restore_latest(make_state())
    assert folder.exists()


def test_nothing_to_restore(tmp_path):
    with pytest.raises(UserError, match="not the workdir of a run"):
        read_best(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(make_state()) is None
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no checkpoint yet"):
        read_best(tmp_path)
