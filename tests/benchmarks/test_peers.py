"""The other frameworks train flaxcifar's networks: narrow ones here."""

import dataclasses
import sys

import numpy as np
import pytest

from benchmarks import jobs
from benchmarks.jobs import Job
from benchmarks.peers import keras_peer
from benchmarks.peers.flaxcifar_peer import write_arrays
from benchmarks.peers.peer import read_arrays
from flaxcifar import data
from flaxcifar.data.dataset import Dataset, Split
from flaxcifar.models.crcv import SIZES
from flaxcifar.optim import FROZEN, assign_groups

CLASSES = 10
NARROW = {
    "vgg16": ("model.width=4",),
    "resnet": ("model.widths=(4, 8, 8, 16)",),
    "crcv": (),
}


def small_dataset(config):
    rng = np.random.default_rng(0)

    def split(count):
        labels = np.arange(count, dtype=np.int32) % CLASSES
        return Split(rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), labels)

    return Dataset("small", split(40), split(10), tuple(f"class {n}" for n in range(CLASSES)))


# What a model's tests share is made once, so they belong to one process.
pytestmark = pytest.mark.xdist_group("peers")


@pytest.fixture(scope="module", params=NARROW)
def job_and_loss(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        name, own, modules = jobs.MODELS[request.param]
        patch.setitem(jobs.MODELS, request.param, (name, own + NARROW[request.param], modules))
        patch.setitem(SIZES, "slim", ((4,), (8,), (8, 12), (16,)))
        patch.setattr(data, "load", small_dataset)
        # The reference is computed by XLA's convolutions; other tests choose for themselves.
        patch.setattr(sys.modules["flaxcifar.ops.convolution"], "_chosen", None)
        path = tmp_path_factory.mktemp(request.param) / "arrays.npz"
        job = Job("keras-tensorflow", model=request.param, batch=16)
        loss = write_arrays(job, path)
        yield dataclasses.replace(job, arrays=str(path)), loss


def count(job):
    return sum(value.size for value in read_arrays(job)[0].values())


def trained(job):
    """Returns the paths that flaxcifar trains."""
    paths = [p for p in read_arrays(job)[0] if not p.endswith(("/mean", "/var"))]
    groups = assign_groups(paths, jobs.recipe(job).param_groups)
    return {path for path, group in groups.items() if group != FROZEN}


def test_keras_has_the_same_network(job_and_loss):
    job, expected = job_and_loss
    weights, images, _ = read_arrays(job)
    model = keras_peer.compiled(job, weights, images.shape[1:], on_gpu=False)
    assert model.count_params() == count(job)
    assert keras_peer.first_loss(job) == pytest.approx(expected, rel=2e-4)


def test_torch_has_the_same_network(job_and_loss):
    torch = pytest.importorskip("torch")
    from benchmarks.peers import torch_networks, torch_peer

    job, expected = job_and_loss
    model, _, _ = torch_peer.load(job, jobs.recipe(job), torch.device("cpu"))
    assert torch_networks.count(model) == count(job)
    assert torch_peer.first_loss(job, torch.device("cpu")) == pytest.approx(expected, rel=2e-4)


def test_keras_freezes_the_same_parameters(job_and_loss):
    job = dataclasses.replace(job_and_loss[0], frozen="stage1|stage2")
    weights, images, _ = read_arrays(job)
    model = keras_peer.compiled(job, weights, images.shape[1:], on_gpu=False)
    size = sum(weights[path].size for path in trained(job))
    assert 0 < size < count(job)
    assert sum(np.size(variable) for variable in model.trainable_variables) == size


def test_torch_freezes_the_same_parameters(job_and_loss):
    torch = pytest.importorskip("torch")
    from benchmarks.peers import torch_peer

    job = dataclasses.replace(job_and_loss[0], frozen="stage1|stage2")
    model, _, _ = torch_peer.load(job, jobs.recipe(job), torch.device("cpu"))
    torch_peer.freeze(model.train(), job.frozen)
    size = sum(x.numel() for x in model.parameters() if x.requires_grad)
    assert size == sum(read_arrays(job)[0][path].size for path in trained(job))
    assert model.training and not model.stage1.training and model.head.training
