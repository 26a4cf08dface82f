"""Every shipped config builds, and its training step keeps the shapes of the state."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxcifar import config, ops
from flaxcifar.data.dataset import Dataset, Split
from flaxcifar.devices import parallel
from flaxcifar.training.experiment import build
from flaxcifar.training.metrics import Metrics
from flaxcifar.training.step import create_state, train_steps

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


@pytest.fixture(scope="module")
def dataset():
    """Black images of 100 classes in 20 superclasses, enough for the largest batch."""
    split = Split(np.zeros((2400, 32, 32, 3), np.uint8), np.arange(2400, dtype=np.int32) % 100)
    names = tuple(map(str, range(100)))
    return Dataset("black", split, split, names, np.arange(100, dtype=np.int32) % 20)


def test_every_config_starts_with_its_command():
    for path in CONFIGS:
        head = path.read_text().split('"""')[1]
        assert f"\n    flaxcifar train --config {path.stem}" in head


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_step_of_every_config_keeps_the_shapes_of_the_state(path, dataset, monkeypatch):
    loaded = config.load(path)
    # The only part of `build` that looks at computed numbers. All else is traced, not computed.
    monkeypatch.setattr(ops, "self_test", lambda convolution, precision: None)

    def build_and_step(batches):
        experiment = build(loaded, dataset)
        recipe, hyperparams = experiment.recipe, experiment.hyperparams
        start = (experiment.params, experiment.batch_stats, experiment.proxy)
        state = create_state(recipe, hyperparams, *start)
        step = functools.partial(train_steps, recipe)
        step = parallel.jitted(step, replicated=5, batch_axis=1, devices=jax.devices()[:1])
        return state, step(hyperparams, state, Metrics.zero(), {}, 1, batches)[0]

    index = jax.ShapeDtypeStruct((1, loaded.batch_size), jnp.int32)
    image = jax.ShapeDtypeStruct((*index.shape, 32, 32, 3), jnp.uint8)
    batches = {"image": image, "label": index, "index": index}
    before, after = jax.eval_shape(build_and_step, batches)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )
