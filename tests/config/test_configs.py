"""Every shipped config, its shapes checked without computing."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from flaxcifar import config, data
from flaxcifar.devices import parallel
from flaxcifar.training import experiment
from flaxcifar.training.metrics import Metrics
from flaxcifar.training.networks import make_network
from flaxcifar.training.step import create_state, train_steps

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


def shapes_of_start(config, dataset, train, normalization, key):
    network, init = make_network(config, len(dataset.class_names), key)
    return network, *jax.eval_shape(lambda: init(config.seed))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_step_of_every_config_has_the_right_shapes(path, monkeypatch):
    images = np.zeros((2400, 32, 32, 3), np.uint8)
    labels = np.arange(2400, dtype=np.int32) % 100
    split = tiny.Split(images, labels)
    whole = tiny.dataset(classes=100)
    monkeypatch.setattr(data, "load", lambda c: dataclasses.replace(whole, train=split, test=split))
    # Parameters as shapes: nothing is initialised.
    monkeypatch.setattr(experiment, "_start", shapes_of_start)
    checked = config.load(path)
    built = experiment.build(checked)
    index = jax.ShapeDtypeStruct((1, 1, checked.batch_size), jnp.int32)
    image = jax.ShapeDtypeStruct((*index.shape, 32, 32, 3), jnp.uint8)
    batches = {"image": image, "label": index, "index": index}
    step = jax.vmap(
        functools.partial(train_steps, built.recipe),
        in_axes=(None, None, None, None, None, 1),
        out_axes=None,
        axis_name=parallel.AXIS,
    )

    def whole_step(params, batch_stats, proxy, batches):
        state = create_state(built.recipe, built.hyperparams, params, batch_stats, proxy)
        return state, step(built.hyperparams, state, Metrics.zero(), {}, 1, batches)[0]

    before, after = jax.eval_shape(
        whole_step, built.params, built.batch_stats, built.proxy, batches
    )
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )
    assert path.read_text().startswith('"""')
