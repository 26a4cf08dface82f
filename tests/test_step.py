import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from flaxcifar import data, experiment, parallel
from flaxcifar.metrics import Metrics, compute
from flaxcifar.step import create_state, train_steps


@pytest.fixture(autouse=True)
def dataset(monkeypatch):
    monkeypatch.setattr(data, "load", lambda config: tiny.dataset())


def batches(exp, steps):
    """All batches of the first epoch, as one dispatch."""
    index = exp.epoch_batches(0)[:steps]
    split = exp.dataset.train
    return {"image": split.images[index], "label": split.labels[index], "index": index}


def train(exp, steps=6, devices=1, per_dispatch=1, wrapper=parallel.pmap, resident=False):
    """Returns the state after `steps` and the loss of each."""
    step = functools.partial(train_steps, exp.recipe)
    run = wrapper(step, replicated=3, batch_axis=1, donate=(0,), devices=jax.devices()[:devices])
    state, losses = create_state(exp.recipe, exp.params, exp.batch_stats), []
    state, zero = parallel.replicate((state, Metrics.zero()), jax.devices()[:devices])
    every = batches(exp, steps)
    split = dataclasses.asdict(exp.dataset.train) if resident else {}
    on_device = {"image": split["images"], "label": split["labels"]} if resident else {}
    for n in range(0, steps, per_dispatch):
        chunk = jax.tree.map(lambda x, n=n: x[n : n + per_dispatch], every)
        chunk = {"index": chunk["index"]} if resident else chunk
        state, metrics = run(state, zero, on_device, chunk)
        losses.append(compute(metrics)["loss"])
    return state, losses


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def assert_close(a, b, rtol=2e-4, atol=2e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


@pytest.mark.parametrize("devices", [2, 4])
def test_the_loss_curve_does_not_depend_on_the_number_of_devices(devices):
    exp = experiment.build(tiny.config())
    state, losses = train(exp)
    sharded, sharded_losses = train(exp, devices=devices)
    np.testing.assert_allclose(sharded_losses, losses, rtol=1e-4)
    assert_close(sharded, state)


def test_pmap_and_shard_map_are_equal():
    exp = experiment.build(tiny.config())
    state, losses = train(exp, devices=4)
    other, other_losses = train(exp, devices=4, wrapper=parallel.shard_map)
    assert losses == other_losses
    assert_same(state, other)


def test_several_steps_a_dispatch_are_the_same_steps():
    exp = experiment.build(tiny.config())
    state, losses = train(exp)
    scanned, scanned_losses = train(exp, per_dispatch=3)
    assert_close(scanned, state)
    np.testing.assert_allclose(
        scanned_losses, np.mean(np.reshape(losses, (2, 3)), axis=1), rtol=1e-4
    )


def test_the_resident_dataset_gives_the_same_steps():
    exp = experiment.build(tiny.config())
    assert_same(train(exp)[0], train(exp, resident=True)[0])


def test_the_loss_goes_down():
    _, losses = train(experiment.build(tiny.config(**{"augment": ()})), steps=9)
    assert np.mean(losses[-2:]) < 0.8 * losses[0]


def test_frozen_parameters_and_statistics_stay_the_same_to_the_bit():
    changes = {
        "param_groups": (("stage1", "frozen"),),
        "l2.coefficient": 0.1,
        "optimizer": dict(name="adamw", learning_rate=0.01, weight_decay=0.1),
        "ema_decay": 0.9,
        "total_epochs": 20,
    }
    exp = experiment.build(tiny.config(**changes))
    state = create_state(exp.recipe, exp.params, exp.batch_stats)
    state, zero = parallel.replicate((state, Metrics.zero()), jax.devices()[:1])
    run = parallel.pmap(
        functools.partial(train_steps, exp.recipe),
        replicated=3,
        batch_axis=1,
        donate=(0,),
        devices=jax.devices()[:1],
    )
    for n in range(100):
        one = jax.tree.map(lambda x, n=n: x[n % 9 : n % 9 + 1], batches(exp, 9))
        state, _ = run(state, zero, {}, one)
    for path, value in {**exp.params, **exp.batch_stats}.items():
        now = {**state.eval_params, **state.batch_stats}[path]
        assert np.array_equal(now, value) == path.startswith("stage1"), path
    assert not any(path.startswith("stage1") for path in state.ema)
    kept = [
        jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)
    ]
    assert kept and not any("stage1" in path for path in kept)


def test_no_gradient_of_frozen_parameters_is_computed():
    def flops(groups):
        exp = experiment.build(tiny.config(param_groups=groups))
        state = create_state(exp.recipe, exp.params, exp.batch_stats)
        step = jax.vmap(
            functools.partial(train_steps, exp.recipe),
            in_axes=(None, None, None, 1),
            axis_name=parallel.AXIS,
        )
        one = jax.tree.map(lambda x: x[:1, None], batches(exp, 1))
        return jax.jit(step).lower(state, Metrics.zero(), {}, one).cost_analysis()["flops"]

    assert flops((("stage[12]", "frozen"),)) < 0.6 * flops(())


def test_a_group_trains_at_its_own_rate():
    spec = {"optimizer": dict(name="sgd", learning_rate=0.1)}
    plain = experiment.build(tiny.config(**spec))
    scaled = experiment.build(tiny.config(**spec, param_groups=(("head", 0.5),)))
    a, b = train(plain, steps=1)[0], train(scaled, steps=1)[0]
    for path, start in plain.params.items():
        ratio = 0.5 if path.startswith("head") else 1.0
        np.testing.assert_allclose(
            b.params[path] - start, ratio * (a.params[path] - start), rtol=1e-3, atol=1e-6
        )


def test_l2_adds_the_sum_of_squares_to_the_gradient():
    spec = {"optimizer": dict(name="sgd", learning_rate=0.1)}
    plain = experiment.build(tiny.config(**spec))
    decayed = experiment.build(
        tiny.config(**spec, **{"l2.coefficient": 0.3, "l2.pattern": "(?!head/).*/kernel"})
    )
    a, b = train(plain, steps=1)[0], train(decayed, steps=1)[0]
    for path, start in plain.params.items():
        decay = 0.6 * 0.1 if path.endswith("conv/kernel") else 0.0
        np.testing.assert_allclose(
            a.params[path] - b.params[path], decay * start, rtol=1e-3, atol=1e-6
        )


def test_the_moving_average_follows_its_definition():
    exp = experiment.build(tiny.config(ema_decay=0.5))
    average = {path: np.asarray(value) for path, value in exp.params.items()}
    for steps in range(1, 5):
        state, _ = train(exp, steps=steps)
        decay = min(0.5, steps / (9 + steps))
        average = {p: decay * average[p] + (1 - decay) * state.params[p] for p in average}
    assert_close(state.ema, average)
    assert set(state.eval_params) == set(state.params)


def test_accumulated_batches_equal_one_larger_batch():
    spec = {"optimizer": dict(name="sgd", learning_rate=0.1), "augment": ()}
    small = experiment.build(tiny.config(**spec, accumulation_steps=2, batch_size=16))
    state = create_state(small.recipe, small.params, small.batch_stats)
    start = jax.tree.map(jnp.copy, state.params)
    run = functools.partial(train, small)
    assert_same(run(steps=1)[0].params, start)
    after = run(steps=2)[0].params
    assert any(not np.array_equal(after[path], start[path]) for path in start)
    assert int(run(steps=2)[0].step) == 2


def test_the_learning_rate_scale_scales_the_update():
    exp = experiment.build(tiny.config(optimizer=dict(name="sgd", learning_rate=0.1)))
    step = functools.partial(train_steps, exp.recipe)
    run = parallel.pmap(step, replicated=3, batch_axis=1, devices=jax.devices()[:1])
    one = batches(exp, 1)
    state = create_state(exp.recipe, exp.params, exp.batch_stats)
    halved = state.replace(learning_rate_scale=jnp.float32(0.5))
    (full, _), (half, _) = (run(start, Metrics.zero(), {}, one) for start in (state, halved))
    for path, start in exp.params.items():
        np.testing.assert_allclose(
            half.params[path] - start, 0.5 * (full.params[path] - start), rtol=1e-3, atol=1e-7
        )
