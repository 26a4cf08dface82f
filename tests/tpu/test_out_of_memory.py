"""A run that is out of memory names a batch size that fits."""

import re

import jax
import pytest
import tiny

from flaxcifar import api
from flaxcifar.errors import OutOfMemoryError
from flaxcifar.tpu import out_of_memory, shapes
from flaxcifar.training.experiment import build

BATCH = 32


def config(batch=BATCH):
    changes = {"model": dict(name="one_stage"), "augment": (), "data.pipeline": "resident"}
    return tiny.config(batch_size=batch, **changes)


@pytest.fixture(scope="module")
def exp():
    return build(config())


@pytest.fixture(scope="module")
def needed(exp):
    """Bytes that a step needs, by batch size."""

    def bytes_of(batch):
        step = shapes.training(build(config(batch), exp.dataset))
        return out_of_memory.memory_of(step.lower().compile().memory_analysis())

    return {batch: bytes_of(batch) for batch in (8, 16, BATCH)}


def test_the_largest_fraction_that_fits_is_found(exp, needed):
    assert needed[8] < needed[16] < needed[BATCH]
    assert out_of_memory.fitting_batch(exp, needed[16]) == 16
    assert out_of_memory.fitting_batch(exp, needed[16] - 1) == 8
    assert out_of_memory.fitting_batch(exp, 10) is None


def fail_with(monkeypatch, words):
    def fail(*_):
        raise jax.errors.JaxRuntimeError(words)

    monkeypatch.setattr("flaxcifar.training.loop.train_epoch", fail)


EXHAUSTED = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate"


def test_a_run_names_the_batch_size_that_fits(exp, needed, tmp_path, monkeypatch):
    fail_with(monkeypatch, EXHAUSTED)
    monkeypatch.setattr(out_of_memory, "memory_limit", lambda device: needed[16])
    with pytest.raises(OutOfMemoryError) as error:
        api.train(exp.config, tmp_path)
    words = str(error.value)
    assert "\n" not in words and re.search("a step of 32 images does not fit on cpu", words)
    assert "--config.batch_size=16 --config.accumulation_steps=2 keeps 32 images" in words


def test_an_unknown_limit_gives_no_number(exp, tmp_path, monkeypatch):
    fail_with(monkeypatch, EXHAUSTED)
    with pytest.raises(OutOfMemoryError, match="32 images does not fit on cpu: reduce.*kept.$"):
        api.train(exp.config, tmp_path)


def test_other_errors_pass(exp, tmp_path, monkeypatch):
    fail_with(monkeypatch, "INTERNAL: something else")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        api.train(exp.config, tmp_path)
