import importlib.util
import os
import types

import jax
import pytest

from flaxcifar import config
from flaxcifar.devices import parallel
from flaxcifar.errors import RunError, UserError
from flaxcifar.tpu import compile, shapes
from flaxcifar.tpu.slices import Slice
from flaxcifar.training import experiment

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="no libtpu: pip install -e '.[aot]'"
)


@pytest.fixture(autouse=True)
def undone(monkeypatch):
    """What compiling for another platform leaves behind in the process."""
    monkeypatch.setattr(os, "environ", dict(os.environ))


def test_a_missing_compiler_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '.\[aot\]'"):
        compile.devices(Slice.parse("v5e:4x4"))


def test_batches_are_made_to_divide():
    settings = config.default_config()
    settings.batch_size, settings.eval_batch_size = 128, 1000
    (line,) = compile.fit_batches(settings, 16)
    assert "eval_batch_size=1000" in line and "1008" in line
    assert (settings.batch_size, settings.eval_batch_size) == (128, 1008)


def test_a_slice_that_is_not_there_may_be_used_to_plan():
    class Chip:
        platform = "tpu"

    before = jax.numpy.zeros(2).devices()
    with parallel.using([Chip()] * 16):
        assert parallel.per_device(128) == 8
        assert jax.numpy.zeros(2).devices() == before


@pytest.mark.parametrize(
    ("memory", "fits", "largest", "sizes"),
    [
        (lambda batch: 2**30 + batch * 2**20, 10**9, 15360, [2048]),
        (lambda batch: 2**30 + batch * 2**20, 1000, 15360, [2048, 1024, 512]),
        (lambda batch: 2**30 + batch * 2**10, 10**9, 45_000, [2048]),
        (lambda batch: 2**30, 10**9, None, [2048]),
        (lambda batch: 2**30 + batch * 2**20, 128, None, [2048, 1024, 512, 256]),
    ],
)
def test_the_largest_batch_is_searched_for(monkeypatch, capsys, memory, fits, largest, sizes):
    settings, tried = config.default_config(), []

    def compiled(batch, part):
        tried.append(batch)
        if batch > fits:
            raise RunError("does not fit")
        return {"batch": batch, "memory_bytes": memory(batch)}

    built = types.SimpleNamespace(train_indices=range(45_000))
    monkeypatch.setattr(experiment, "build", lambda config, dataset: built)
    monkeypatch.setattr(shapes, "training", lambda exp: settings.batch_size)
    monkeypatch.setattr(compile, "examine", compiled)
    found = {"batch": 128, "memory_bytes": memory(128)}
    assert compile.largest_batch(settings, None, Slice.parse("v5e:1x1"), found) == largest
    assert tried == sizes
    assert ("all training images" in capsys.readouterr().out) == (largest == 45_000)


@needs_libtpu
@pytest.mark.parametrize("topology", ["v5e:1x1", "v5e:2x2", "v6e:2x2", "v5p:2x2x1"])
def test_libtpu_describes_the_slices(topology):
    part = Slice.parse(topology)
    assert len(compile.devices(part)) == part.chips
