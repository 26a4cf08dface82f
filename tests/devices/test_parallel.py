import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxcifar.devices import parallel
from flaxcifar.errors import UserError

WRAPPERS = (parallel.pmap, parallel.shard_map)


def step(state, scale, batch):
    """A gradient step and a running sum, reduced as the training step reduces them."""
    grad = jax.grad(lambda w: jnp.mean((batch["x"][0] @ w) ** 2))(state["w"])
    grad = jax.lax.pmean(grad, parallel.AXIS)
    total = jax.lax.psum(jnp.sum(batch["x"]), parallel.AXIS)
    return {"w": state["w"] - scale * grad, "n": state["n"] + 1}, total


def run(wrapper, count):
    compiled = wrapper(step, replicated=2, batch_axis=1, donate=(0,), devices=jax.devices()[:count])
    state = {"w": jnp.linspace(0.0, 1.0, 6).reshape(3, 2), "n": jnp.int32(0)}
    rng = np.random.default_rng(0)
    for _ in range(4):
        batch = {"x": rng.normal(size=(1, 16, 3)).astype(np.float32)}
        state, total = compiled(state, jnp.float32(0.1), batch)
    return state, total, batch["x"].sum()


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_any_number_of_devices_computes_the_same(wrapper, count):
    state, total, expected = run(wrapper, count)
    reference, _, _ = run(parallel.pmap, 1)
    np.testing.assert_allclose(state["w"], reference["w"], rtol=1e-6)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert int(state["n"]) == 4
    assert state["w"].is_fully_replicated and len(state["w"].devices()) == count
    assert state["w"].shape == (3, 2)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_donated_state_is_reused(wrapper):
    compiled = wrapper(step, replicated=2, batch_axis=1, donate=(0,))
    batch = {"x": np.ones((1, 16, 3), np.float32)}
    state, _ = compiled({"w": jnp.ones((3, 2)), "n": jnp.int32(0)}, jnp.float32(0.1), batch)
    compiled(state, jnp.float32(0.1), batch)
    assert state["w"].is_deleted()


def test_donated_replicas_leave_their_source_alone():
    compiled = parallel.pmap(step, replicated=2, batch_axis=1, donate=(0,))
    source = parallel.replicate({"w": np.ones((3, 2), np.float32), "n": np.int32(0)})
    state = parallel.replicate(source)
    compiled(state, jnp.float32(0.1), {"x": np.ones((1, 16, 3), np.float32)})
    assert state["w"].is_deleted()
    np.testing.assert_array_equal(source["w"], np.ones((3, 2)))


def test_one_program_copies_a_tree_of_any_shapes(caplog):
    tree = [np.ones((11, count), np.float32) for count in range(1, 6)]
    with jax.log_compiles():
        parallel.replicate(tree)
    assert len([r for r in caplog.records if r.getMessage().startswith("Compiling")]) == 1


def test_many_dispatches_on_many_cpu_devices_do_not_lock_up():
    compiled = parallel.pmap(step, replicated=2, batch_axis=1, donate=(0,))
    state = {"w": jnp.ones((3, 2)), "n": jnp.int32(0)}
    batch = {"x": np.zeros((1, 8, 3), np.float32)}
    for _ in range(200):
        state, _ = compiled(state, jnp.float32(0.1), batch)
    assert int(state["n"]) == 200


def test_an_uneven_batch_names_the_even_ones():
    assert parallel.per_device(128) == 16
    with pytest.raises(UserError, match="batch_size=100 .* 8 devices: use 96 or 104"):
        parallel.per_device(100)
    with pytest.raises(UserError, match="eval_batch_size=3 .* use 8"):
        parallel.per_device(3, "eval_batch_size")
