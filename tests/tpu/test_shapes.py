"""Lowered steps take the arguments of real ones and compute the same."""

import functools

import jax
import numpy as np
import pytest
import tiny

from flaxcifar.devices import parallel
from flaxcifar.errors import UserError
from flaxcifar.tpu import shapes
from flaxcifar.training import dispatch, experiment
from flaxcifar.training.evaluation import make_evaluate
from flaxcifar.training.metrics import Metrics
from flaxcifar.training.step import create_state, train_steps


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """On several CPU devices steps take turns, by a function that cannot be lowered."""
    with parallel.using(jax.devices()[:1]):
        yield


@pytest.fixture(scope="module")
def host(one_device):
    return experiment.build(tiny.config(steps_per_dispatch=2, test_views="mirror"))


@pytest.fixture(scope="module")
def resident(one_device):
    settings = tiny.config(**{"steps_per_dispatch": 4, "data.pipeline": "resident"})
    return experiment.build(settings)


def described(tree):
    return jax.tree.map(lambda x: (np.shape(x), np.dtype(x.dtype).name), tree)


@pytest.mark.parametrize("pipeline", ["host", "resident"])
def test_the_lowered_step_takes_the_arguments_of_training(pipeline, request):
    exp = request.getfixturevalue(pipeline)
    step = shapes.training(exp)
    assert (step.kind, step.batch, step.looped) == ("train", 16, True)
    state = create_state(exp.recipe, exp.hyperparams, exp.params, exp.batch_stats)
    split = exp.pipeline.put(exp.dataset.train)
    first = next(dispatch.dispatches(exp, 0, 0))
    count = np.int32(first.steps)
    given = (exp.hyperparams, state, Metrics.zero(), split, count, first.batches)
    (taken, _) = step.lower().in_avals
    assert described(taken) == described(given)


def test_the_compiled_step_computes_the_same_as_training(host):
    exp = host
    batch = next(dispatch.dispatches(exp, 0, 0))

    def train(step):
        state = create_state(exp.recipe, exp.hyperparams, exp.params, exp.batch_stats)
        start = parallel.replicate((exp.hyperparams, state, Metrics.zero(), {}))
        return step(*start, np.int32(2), batch.batches)

    step = functools.partial(train_steps, exp.recipe)
    expected = train(parallel.pmap(step, replicated=5, batch_axis=1))
    compiled = shapes.training(exp).lower().compile()
    found = train(compiled)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), found, expected)
    assert int(found[0].step) == 2


def test_the_lowered_evaluation_takes_the_arguments_of_evaluation(host, monkeypatch):
    exp = host
    step = shapes.evaluation(exp)
    given = []

    def record(function, **_):
        def run(*arguments):
            given.append(arguments)
            return jax.tree.map(np.copy, arguments[2]), None

        return run

    monkeypatch.setattr(parallel, "pmap", record)
    evaluate = make_evaluate(
        exp.recipe.network, exp.normalization, exp.dataset.superclass_of, exp.config.eval_batch_size
    )
    with pytest.raises(ValueError, match="no example"):  # nothing is computed
        evaluate(exp.params, exp.batch_stats, exp.dataset.test, np.arange(32), "mirror")
    (taken, _) = step.lower().in_avals
    assert described(taken) == described(given[0])
    assert step.flops == 2 * 32 * shapes.estimate.forward_flops(exp.recipe, (8, 8, 3), 1)


def test_a_blank_dataset_has_the_shape_of_the_real_one_and_takes_no_memory():
    found = shapes.blank("cifar100", 32, None, None)
    assert found.train.images.shape == (50_000, 32, 32, 3) and len(found.test) == 10_000
    assert len(found.class_names) == 100 and len(np.unique(found.superclass_of)) == 20
    assert not any(found.train.images.strides)
    assert len(np.unique(found.train.labels)) == 100


def test_an_unknown_dataset_needs_classes_and_examples():
    found = shapes.blank("imagenette", 64, 10, 9469)
    assert found.train.images.shape == (9469, 64, 64, 3) and len(found.class_names) == 10
    assert found.superclass_of is None
    for given in ((None, 5), (5, None), (None, None)):
        with pytest.raises(UserError, match="--classes and --examples"):
            shapes.blank("imagenette", 64, *given)
