import functools

import jax
import numpy as np
import optax
import pytest
import quick
import tiny

from flaxcifar.devices import parallel
from flaxcifar.errors import UserError
from flaxcifar.training import experiment, networks
from flaxcifar.training.metrics import Metrics
from flaxcifar.training.step import create_state, train_steps

CHANGES = {
    "model": dict(name="one_stage"),
    "selection.keep_percent": 50.0,
    "selection.every_steps": 2,
    "proxy": dict(name="one_stage"),
    "augment": (),
}


@functools.lru_cache
def compiled(recipe, devices=1):
    step = functools.partial(train_steps, recipe)
    return parallel.pmap(step, replicated=5, batch_axis=1, devices=jax.devices()[:devices])


def run(exp, steps, devices=1):
    """Returns the states after each step, and the metrics of each."""
    chosen = jax.devices()[:devices]
    start = create_state(exp.recipe, exp.hyperparams, exp.params, exp.batch_stats, exp.proxy)
    state, zero, hyperparams = parallel.replicate((start, Metrics.zero(), exp.hyperparams), chosen)
    states, found, split = [start], [], exp.dataset.train
    for index in exp.epoch_batches(0)[:steps, None]:
        batch = {"image": split.images[index], "label": split.labels[index], "index": index}
        state, metrics = compiled(exp.recipe, devices)(hyperparams, state, zero, {}, 1, batch)
        states.append(state)
        found.append(metrics)
    return states, found


def proxy_losses(exp, proxy, index):
    """The losses of a batch as the small network sees it, without anything of the selection."""
    split = exp.dataset.train
    images = exp.normalization(split.images[index].astype(np.float32))
    seeds = np.zeros(len(index), np.uint32)
    apply = exp.recipe.selection.network.apply

    def logits_of(images):
        return apply(proxy.params, proxy.batch_stats, images, seeds, train=True)[0]

    @quick.jit
    def losses(images, labels):
        logits = jax.vmap(logits_of, axis_name=parallel.AXIS)(images[None])[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    return np.asarray(losses(images, split.labels[index]))


def test_the_half_with_the_highest_losses_is_trained_on(monkeypatch):
    monkeypatch.setattr(tiny, "Dropout", lambda rate, salt: lambda x: x)
    networks._make_network.cache_clear()
    exp = experiment.build(tiny.config(**CHANGES))
    states, found = run(exp, steps=1)
    index = exp.epoch_batches(0)[0]
    hardest = np.argsort(-proxy_losses(exp, states[0].proxy, index))[: len(index) // 2]
    plain = experiment.build(tiny.config(model=dict(name="one_stage"), augment=(), batch_size=8))
    half = index[np.sort(hardest)][None, :]
    split = exp.dataset.train
    batch = {"image": split.images[half], "label": split.labels[half], "index": half}
    start = create_state(plain.recipe, plain.hyperparams, exp.params, exp.batch_stats)
    step = compiled(plain.recipe)
    want, metrics = step(plain.hyperparams, start, Metrics.zero(), {}, 1, batch)
    assert float(found[0].count) == 8
    np.testing.assert_allclose(found[0].loss, metrics.loss, rtol=1e-4)
    for path, value in want.params.items():
        np.testing.assert_allclose(states[1].params[path], value, rtol=1e-4, atol=1e-6)


def test_the_small_network_trains_on_every_second_batch():
    exp = experiment.build(tiny.config(**CHANGES))
    states, _ = run(exp, steps=4)
    changed = [
        not np.array_equal(a.proxy.params["head/kernel"], b.proxy.params["head/kernel"])
        for a, b in zip(states[:-1], states[1:], strict=True)
    ]
    assert changed == [True, False, True, False]
    # Its statistics see every batch.
    for a, b in zip(states[:-1], states[1:], strict=True):
        path = "stage1/norm/mean"
        assert not np.array_equal(a.proxy.batch_stats[path], b.proxy.batch_stats[path])


def test_the_choice_does_not_depend_on_the_number_of_devices():
    exp = experiment.build(tiny.config(**CHANGES))
    (_, *one), alone = run(exp, steps=3)
    (_, *several), shared = run(exp, steps=3, devices=4)
    for a, b in zip(alone, shared, strict=True):
        np.testing.assert_allclose(a.loss, b.loss, rtol=1e-3)
    for x, y in zip(jax.tree.leaves(one[-1]), jax.tree.leaves(several[-1]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


def test_a_share_that_does_not_divide_over_the_devices_is_one_line(monkeypatch):
    monkeypatch.setattr(parallel, "all_devices", lambda: tuple(jax.devices()[:8]))
    with pytest.raises(UserError, match="selected examples=12 does not divide over 8 devices"):
        experiment.build(tiny.config(**CHANGES | {"selection.keep_percent": 75.0}))
