"""The other frameworks train the same networks, here narrow ones."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from benchmarks import jobs
from benchmarks.jobs import Job
from benchmarks.peers.flaxcifar_peer import write_arrays
from benchmarks.peers.peer import read_arrays
from flaxcifar.data.dataset import Dataset, Split
from flaxcifar.data.source import Source
from flaxcifar.data.sources import SOURCES
from flaxcifar.models.crcv import SIZES
from flaxcifar.optim.param_groups import FROZEN, assign_groups

CLASSES = 10
NARROW = {
    "vgg16": ("model.width=4",),
    "resnet": ("model.widths=(4, 8, 8, 16)",),
    "crcv": (),
    "speednet": ("model.widths=(8, 12, 16)",),
}


def noise(directory: str, image_size: int) -> Source:
    """A data source of random images."""
    return Source("noise", "noise", lambda _: noise_dataset(), Path(directory), ())


SOURCES.register(noise)


def noise_dataset():
    rng = np.random.default_rng(0)

    def split(count):
        labels = np.arange(count, dtype=np.int32) % CLASSES
        return Split(rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), labels)

    return Dataset("noise", split(40), split(10), tuple(f"class {n}" for n in range(CLASSES)))


@pytest.fixture
def job_and_loss(model, tmp_path, monkeypatch):
    name, own, modules = jobs.MODELS[model]
    changes = (*own, *NARROW[model], f"data.cache_dir={tmp_path}")
    monkeypatch.setitem(jobs.MODELS, model, (name, changes, modules))
    monkeypatch.setitem(SIZES, "slim", ((4,), (8,), (8, 12), (16,)))
    arrays = tmp_path / "arrays.npz"
    job = Job("keras-tensorflow", model=model, batch=16, dataset="noise", arrays=str(arrays))
    return job, write_arrays(job, arrays)


def count(job):
    return sum(value.size for value in read_arrays(job)[0].values())


def trained(job):
    """Returns the paths that flaxcifar trains."""
    paths = [p for p in read_arrays(job)[0] if not p.endswith(("/mean", "/var"))]
    groups = assign_groups(paths, jobs.recipe(job).param_groups)
    return {path for path, group in groups.items() if group != FROZEN}


@pytest.mark.parametrize("model", sorted(NARROW.keys() - {"speednet"}))
def test_all_frameworks_have_the_same_network(job_and_loss):
    from benchmarks.peers import keras_peer

    job, expected = job_and_loss
    frozen = dataclasses.replace(job, frozen="stage1|stage2")
    trained_size = sum(read_arrays(job)[0][path].size for path in trained(frozen))
    assert 0 < trained_size < count(job)

    weights, images, _ = read_arrays(job)
    model = keras_peer.compiled(frozen, weights, images.shape[1:], on_gpu=False)
    assert model.count_params() == count(job)
    assert sum(np.size(variable) for variable in model.trainable_variables) == trained_size
    assert keras_peer.first_loss(job) == pytest.approx(expected, rel=2e-4)

    if importlib.util.find_spec("torch") is None:
        return
    import torch

    from benchmarks.peers import torch_networks, torch_peer

    device = torch.device("cpu")
    model, _, _ = torch_peer.load(job, jobs.recipe(job), device)
    assert torch_networks.count(model) == count(job)
    torch_peer.freeze(model.train(), frozen.frozen)
    assert sum(x.numel() for x in model.parameters() if x.requires_grad) == trained_size
    assert model.training and not model.stage1.training and model.head.training
    assert torch_peer.first_loss(job, device) == pytest.approx(expected, rel=2e-4)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.parametrize("model", ["speednet"])
def test_pytorch_takes_the_same_steps_with_muon(job_and_loss):
    """Equal losses over three steps on one batch imply equal updates."""
    import torch

    from benchmarks.peers import flaxcifar_peer, torch_peer

    job, expected = job_and_loss
    assert torch_peer.first_loss(job, torch.device("cpu")) == pytest.approx(expected, rel=2e-4)
    torch_job = dataclasses.replace(job, framework="torch", threads=2)
    ours = flaxcifar_peer.make(dataclasses.replace(job, framework="flaxcifar"))
    theirs = torch_peer.make(torch_job)
    assert ours.parameters == theirs.parameters
    for _ in range(3):
        assert theirs.train(1) == pytest.approx(ours.train(1), rel=2e-2)
