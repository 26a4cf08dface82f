import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxcifar.checkpoint import Checkpoints, read_best
from flaxcifar.errors import UserError
from flaxcifar.optim import assign_groups, make_tx
from flaxcifar.step import TrainState

RECORD = {"epoch": 3, "history": [{"loss": 0.1 + 0.2}], "plateau": None}


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


def test_latest_and_best_are_kept_apart(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(1, 6):
            state = make_state(step)
            if step == 2:
                checkpoints.save_best(step, state.params, state.batch_stats, RECORD)
            checkpoints.save_latest(step, state, RECORD)
    best, record = read_best(tmp_path)
    assert best["params"]["stage1/conv/kernel"][0, 0] == 2.0
    assert best["batch_stats"]["norm/mean"][0] == 2.0
    assert record == RECORD
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(make_state())[0].params["stage1/conv/kernel"][0, 0] == 5.0


def test_the_state_may_be_donated_while_it_is_saved(tmp_path):
    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        state = jax.tree.map(lambda x: x + 0, make_state(4.0))
        checkpoints.save_latest(1, state, RECORD)
        step(state)
    with Checkpoints(tmp_path) as checkpoints:
        same(checkpoints.restore_latest(make_state())[0], make_state(4.0))


def test_an_unfinished_save_is_passed_over(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_latest(1, make_state(1.0), RECORD)
    latest = tmp_path / "checkpoints" / "latest"
    (latest / "2.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
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


def test_nothing_to_restore(tmp_path):
    with pytest.raises(UserError, match="no workdir of a run"):
        read_best(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(make_state()) is None
    with pytest.raises(UserError, match="no checkpoint yet"):
        read_best(tmp_path)
