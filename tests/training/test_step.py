import dataclasses
import functools

import jax
import numpy as np
import pytest
import quick
import tiny

from flaxcifar.data.pipelines.resident import ResidentPipeline
from flaxcifar.devices import parallel
from flaxcifar.training import experiment
from flaxcifar.training.metrics import Metrics, compute
from flaxcifar.training.step import create_state, train_steps

DESCENT = {"optimizer": dict(name="sgd", learning_rate=0.1), "augment": ()}


@pytest.fixture(scope="module")
def exp():
    return experiment.build(config())


@pytest.fixture(scope="module")
def plain():
    """Plain descent without augmentation, for tests of what a step computes."""
    return experiment.build(config(**DESCENT))


def quickly(step, **options):
    return quick.jit(parallel.jitted(step, **options))


@functools.lru_cache
def compiled(recipe, devices, wrapper):
    """The steps of `recipe` on the first devices, with `parallel.pmap` as a run compiles them."""
    step = functools.partial(train_steps, recipe)
    return wrapper(step, replicated=5, batch_axis=1, devices=jax.devices()[:devices])


def config(**changes):
    return tiny.config(**{"model": dict(name="one_stage")} | changes)


def batches(exp, steps):
    """All batches of the first epoch, as one dispatch."""
    index = exp.epoch_batches(0)[:steps]
    split = exp.dataset.train
    return {"image": split.images[index], "label": split.labels[index], "index": index}


def start_state(exp):
    return create_state(exp.recipe, exp.hyperparams, exp.params, exp.batch_stats)


def train(
    exp, steps=6, devices=1, per_dispatch=1, wrapper=parallel.pmap, resident=False, start=None
):
    """Returns the state after `steps` and the loss of each dispatch."""
    run = compiled(exp.recipe, devices, wrapper)
    start = (start or start_state(exp), Metrics.zero(), exp.hyperparams)
    state, zero, hyperparams = parallel.replicate(start, jax.devices()[:devices])
    losses = []
    every = batches(exp, steps)
    on_device = ResidentPipeline().put(exp.dataset.train) if resident else {}
    for n in range(0, steps, per_dispatch):
        chunk = jax.tree.map(lambda x, n=n: x[n : n + per_dispatch], every)
        chunk = {"index": chunk["index"]} if resident else chunk
        count = len(chunk["index"])
        state, metrics = run(hyperparams, state, zero, on_device, count, chunk)
        losses.append(compute(metrics)["loss"])
    return state, losses


descend = functools.partial(train, wrapper=quickly)


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def assert_close(a, b, rtol=2e-4, atol=2e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def test_the_loss_curve_does_not_depend_on_the_number_of_devices(exp):
    state, losses = train(exp)
    sharded, sharded_losses = train(exp, devices=4)
    np.testing.assert_allclose(sharded_losses, losses, rtol=1e-4)
    assert_close(sharded, state)


def test_pmap_and_shard_map_are_equal(exp):
    state, losses = train(exp, devices=4)
    other, other_losses = train(exp, devices=4, wrapper=parallel.shard_map)
    assert losses == other_losses
    assert_same(state, other)


def test_several_steps_a_dispatch_are_the_same_steps(exp):
    state, losses = train(exp)
    scanned, scanned_losses = train(exp, per_dispatch=3)
    assert_close(scanned, state)
    np.testing.assert_allclose(
        scanned_losses, np.mean(np.reshape(losses, (2, 3)), axis=1), rtol=1e-4
    )


def test_a_program_serves_fewer_steps_than_it_has_room_for(exp):
    run = compiled(exp.recipe, 1, parallel.pmap)
    every, found = batches(exp, 3), {}
    start = (start_state(exp), Metrics.zero(), exp.hyperparams)
    start, zero, hyperparams = parallel.replicate(start, jax.devices()[:1])
    for count in (1, 2, 3):
        found[count], metrics = run(hyperparams, start, zero, {}, count, every)
        assert int(found[count].step) == count and int(metrics.count) == count * 16
    last = jax.tree.map(lambda x: x[[2] * 3], every)
    after, _ = run(hyperparams, found[2], zero, {}, 1, last)
    assert_same(after, found[3])


def test_the_resident_dataset_gives_the_same_steps(exp):
    assert_same(train(exp)[0], train(exp, resident=True)[0])


def test_the_loss_goes_down():
    fast = dict(name="sgd", learning_rate=1.0)
    _, losses = descend(experiment.build(config(**DESCENT | {"optimizer": fast})), steps=9)
    assert np.mean(losses[-2:]) < 0.8 * losses[0]


def test_frozen_parameters_and_statistics_stay_the_same_to_the_bit():
    changes = {
        "param_groups": (("stage1", "frozen"),),
        "l2.coefficient": 0.1,
        "optimizer": dict(name="adamw", learning_rate=0.01, weight_decay=0.1),
        "ema_decay": 0.9,
        "total_epochs": 20,
    }
    exp = experiment.build(config(**changes))
    state = start_state(exp)
    state, zero = parallel.replicate((state, Metrics.zero()), jax.devices()[:1])
    run = compiled(exp.recipe, 1, parallel.pmap)
    for n in range(100):
        one = jax.tree.map(lambda x, n=n: x[n % 9 : n % 9 + 1], batches(exp, 9))
        state, _ = run(exp.hyperparams, state, zero, {}, 1, one)
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
        exp = experiment.build(config(param_groups=groups))
        state = start_state(exp)
        step = jax.vmap(
            functools.partial(train_steps, exp.recipe),
            in_axes=(None, None, None, None, None, 1),
            axis_name=parallel.AXIS,
        )
        one = jax.tree.map(lambda x: x[:1, None], batches(exp, 1))
        lowered = jax.jit(step).lower(exp.hyperparams, state, Metrics.zero(), {}, 1, one)
        return lowered.cost_analysis()["flops"]

    assert flops((("stage1", "frozen"),)) < 0.6 * flops(())


def test_a_group_trains_at_its_own_rate(plain):
    scaled = experiment.build(config(**DESCENT, param_groups=(("head", 0.5),)))
    a, b = descend(plain, steps=1)[0], descend(scaled, steps=1)[0]
    for path, start in jax.device_get(plain.params).items():
        ratio = 0.5 if path.startswith("head") else 1.0
        first, second = np.asarray(a.params[path]), np.asarray(b.params[path])
        np.testing.assert_allclose(second - start, ratio * (first - start), rtol=1e-3, atol=1e-6)


def test_l2_adds_the_sum_of_squares_to_the_gradient(plain):
    l2 = {"l2.coefficient": 0.3, "l2.pattern": "(?!head/).*/kernel"}
    decayed = experiment.build(config(**DESCENT | l2))
    a, b = descend(plain, steps=1)[0], descend(decayed, steps=1)[0]
    for path, start in jax.device_get(plain.params).items():
        decay = 0.6 * 0.1 if path.endswith("conv/kernel") else 0.0
        change = np.asarray(a.params[path]) - np.asarray(b.params[path])
        np.testing.assert_allclose(change, decay * start, rtol=1e-3, atol=1e-6)


def test_the_moving_average_follows_its_definition():
    exp = experiment.build(config(**DESCENT, ema_decay=0.5))
    average = {path: np.asarray(value) for path, value in exp.params.items()}
    for steps in range(1, 5):
        state, _ = descend(exp, steps=steps)
        decay = min(0.5, steps / (9 + steps))
        params = jax.device_get(state.params)
        average = {p: decay * average[p] + (1 - decay) * params[p] for p in average}
    assert_close(state.ema, average)
    assert set(state.eval_params) == set(state.params)


def test_lookahead_sets_the_trained_weights_to_slow_ones_now_and_then(plain):
    spec = {"lookahead.every_steps": 2, "lookahead.decay": 0.8, "lookahead.power": 1.0}
    exp = experiment.build(config(**DESCENT | spec))
    start = {path: np.asarray(value) for path, value in exp.params.items()}
    fast = jax.device_get(descend(plain, steps=2)[0].params)
    before, after = descend(exp, steps=1)[0], descend(exp, steps=2)[0]
    assert_same(before.ema, start)
    assert_same(before.params, descend(plain, steps=1)[0].params)
    decay = 0.8 * 2 / exp.total_steps
    slow = {path: decay * start[path] + (1 - decay) * fast[path] for path in start}
    assert_close(after.ema, slow, rtol=1e-5, atol=1e-6)
    assert_same(after.ema, after.params)
    third = descend(exp, steps=3)[0]
    assert_same(third.ema, after.ema)
    assert_same(third.eval_params, after.ema)


def test_runs_that_differ_in_arguments_alone_share_a_recipe_and_are_not_equal(exp):
    changes = {
        "seed": 3,
        "optimizer": dict(name="sgd", learning_rate=0.2, momentum=0.5),
        "early_stopping.patience": 4,
    }
    other = experiment.build(config(**changes))
    assert other.recipe == exp.recipe and hash(other.recipe) == hash(exp.recipe)
    assert not np.array_equal(other.params["head/kernel"], exp.params["head/kernel"])
    borrowed = dataclasses.replace(other, recipe=exp.recipe)
    assert_same(train(borrowed, steps=2)[0], train(other, steps=2)[0])
    assert train(other, steps=2)[1] != train(exp, steps=2)[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": dict(name="speednet", widths=(8, 8))},
        {"optimizer": dict(name="sgd", learning_rate=0.05, momentum=0.9, nesterov=True)},
        {"schedule": dict(name="linear")},
        {"param_groups": (("stage1", "frozen"),)},
        {"augment": ()},
        {"l2.coefficient": 0.1},
        {"batch_size": 8},
        {"total_epochs": 3},
        {"ema_decay": 0.9},
        {"selection.keep_percent": 50.0, "proxy": dict(name="one_stage")},
    ],
)
def test_what_the_compiled_step_depends_on_makes_recipes_differ(exp, changes):
    assert experiment.build(config(**changes)).recipe != exp.recipe


def test_smaller_images_are_trained_on_after_augmentation(exp):
    small = dataclasses.replace(exp, recipe=dataclasses.replace(exp.recipe, image_size=4))
    assert small.recipe != exp.recipe
    losses = descend(small, steps=2)[1]
    assert np.isfinite(losses).all() and not np.allclose(losses, train(exp, steps=2)[1], rtol=1e-3)


def test_accumulated_batches_equal_one_larger_batch():
    small = experiment.build(config(**DESCENT, accumulation_steps=2, batch_size=16))
    start = jax.device_get(start_state(small).params)
    assert_same(descend(small, steps=1)[0].params, start)
    after, _ = descend(small, steps=2)
    assert any(not np.array_equal(after.params[path], start[path]) for path in start)
    assert int(after.step) == 2


def test_the_learning_rate_scale_scales_the_update(plain):
    full = descend(plain, steps=1)[0]
    halved = start_state(plain).replace(learning_rate_scale=np.float32(0.5))
    half = descend(plain, steps=1, start=halved)[0]
    for path, start in jax.device_get(plain.params).items():
        first, second = np.asarray(full.params[path]), np.asarray(half.params[path])
        np.testing.assert_allclose(second - start, 0.5 * (first - start), rtol=1e-3, atol=1e-7)
