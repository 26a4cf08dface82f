"""A device that is out of memory is explained, with a batch that fits."""

import re

import jax
import pytest
import tiny

from flaxcifar import data
from flaxcifar.errors import RunError
from flaxcifar.tpu import out_of_memory, shapes
from flaxcifar.training.experiment import build
from flaxcifar.training.loop import train_and_evaluate

BATCH = 64


@pytest.fixture(scope="module")
def exp():
    settings = tiny.config(batch_size=BATCH, **{"data.pipeline": "resident"})
    return build(settings, tiny.dataset(train=512))


def needed(exp, batch):
    settings = tiny.config(batch_size=batch, **{"data.pipeline": "resident"})
    step = shapes.training(build(settings, exp.dataset))
    return out_of_memory.memory_of(step.lower().compile().memory_analysis())


def test_the_largest_fraction_that_fits_is_found(exp):
    sizes = {batch: needed(exp, batch) for batch in (32, 16)}
    assert sizes[16] < sizes[32] < needed(exp, BATCH)
    assert out_of_memory.fitting_batch(exp, sizes[32]) == 32
    assert out_of_memory.fitting_batch(exp, sizes[32] - 1) == 16
    assert out_of_memory.fitting_batch(exp, 10) is None


def exhausted(*_):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")


def test_a_run_ends_with_a_line_that_says_what_fits(exp, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", lambda config: exp.dataset)
    monkeypatch.setattr("flaxcifar.training.loop.train_epoch", exhausted)
    limit = needed(exp, 32)
    monkeypatch.setattr(out_of_memory, "_memory", lambda device: limit)
    with pytest.raises(RunError) as error:
        train_and_evaluate(exp.config, tmp_path)
    words = str(error.value)
    assert "\n" not in words and re.search("does not hold a step of 64 images", words)
    assert "--config.batch_size=32" in words and "accumulation_steps=2 " in words


def test_where_the_limit_is_not_known_there_is_no_figure(exp):
    with pytest.raises(RunError, match="cpu does not hold a step of 64 images: try a smaller"):
        with out_of_memory.explained(exp):
            exhausted()


def test_other_errors_pass(exp):
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        with out_of_memory.explained(exp):
            raise jax.errors.JaxRuntimeError("INTERNAL: something else")
