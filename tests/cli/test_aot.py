import importlib.util
import json
import os
import types

import jax
import pytest

from flaxcifar import config
from flaxcifar.cli import aot
from flaxcifar.devices import parallel
from flaxcifar.errors import RunError, UserError
from flaxcifar.tpu import shapes
from flaxcifar.tpu.slices import Slice
from flaxcifar.training import experiment

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="no libtpu: pip install -e '.[aot]'"
)


@pytest.fixture(autouse=True)
def undone(monkeypatch):
    """What compiling for another platform leaves behind in the process."""
    monkeypatch.setattr(os, "environ", dict(os.environ))


@pytest.fixture
def tiny_config(tmp_path):
    path = tmp_path / "tiny_config.py"
    path.write_text("import tiny\n\n\ndef get_config():\n    return tiny.config()\n")
    return str(path)


def test_a_missing_compiler_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '.\[aot\]'"):
        aot.devices(Slice.parse("v5e:4x4"))


def test_mistakes_are_found_before_anything_is_compiled(tiny_config, monkeypatch):
    monkeypatch.setattr(aot, "devices", lambda part: pytest.fail("too late"))
    for flags, words in (
        (["--topology", "v5e:5x5"], "v5e has"),
        (["--keep", "/nowhere"], "no folder"),
        (["--output", "/nowhere/figures.json"], "no folder /nowhere"),
        (["--classes", "-1", "--examples", "9"], "at least 1"),
        (["--config.batchsize=3"], "batch_size"),
        ([], "--classes and --examples"),
    ):
        with pytest.raises(UserError, match=words):
            aot.main(["--config", tiny_config, *flags])


def test_batches_are_made_to_divide():
    settings = config.default_config()
    settings.batch_size, settings.eval_batch_size = 128, 1000
    (line,) = aot.fitted(settings, 16)
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
    monkeypatch.setattr(aot, "examine", compiled)
    found = {"batch": 128, "memory_bytes": memory(128)}
    assert aot.largest_batch(settings, None, Slice.parse("v5e:1x1"), found) == largest
    assert tried == sizes
    assert ("all training images" in capsys.readouterr().out) == (largest == 45_000)


@needs_libtpu
@pytest.mark.parametrize("topology", ["v5e:1x1", "v5e:2x2", "v6e:2x2", "v5p:2x2x1"])
def test_libtpu_describes_the_slices(topology):
    part = Slice.parse(topology)
    assert len(aot.devices(part)) == part.chips


@needs_libtpu
def test_a_whole_report(tiny_config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(experiment.data, "load", lambda config: pytest.fail("no data is needed"))
    output = tmp_path / "figures.json"
    flags = ["--topology", "v5e:2x2", "--classes", "4", "--examples", "192", "--largest_batch"]
    flags += ["--config.data.validation_percent=25", "--config.steps_per_dispatch=2"]
    aot.main(["--config", tiny_config, *flags, "--output", str(output), "--keep", str(tmp_path)])
    report = json.loads(output.read_text())
    assert (report["topology"], report["chips"]) == ("v5e:2x2", 4)
    train, evaluation = report["steps"]
    assert (train["step"], train["batch"], evaluation["step"]) == ("train", 16, "eval")
    for step in (train, evaluation):
        assert step["host_transfers"] == []
        assert 0 < step["memory_share"] < 0.01
        assert step["estimated_seconds"]["step"] > 0
    # One all-reduce for the gradients of all parameters, and two for each of two BatchNorms.
    sizes = [each["bytes"] for each in train["collectives"] for _ in range(each["count"])]
    parameters = (3 * 9 * 8 + 8 * 9 * 16 + 8 + 16) + 2 * (8 + 16) + 17 * 4
    assert max(sizes) >= 4 * parameters and len(sizes) <= 6
    assert report["estimated_largest_batch"] in (None, 144)  # all training images
    assert (tmp_path / "v5e-2x2-train.hlo.txt").read_text().startswith("HloModule")
    said = capsys.readouterr().out
    assert "never waits for the host" in said and "largest batch" in said
