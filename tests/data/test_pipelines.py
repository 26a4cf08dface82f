"""Both pipelines, held against each other and against NumPy."""

import itertools

import jax
import numpy as np
import pytest

from flaxcifar.data import resident
from flaxcifar.data.dataset import Split
from flaxcifar.data.host import train_batches
from flaxcifar.data.order import epoch_indices

# One process imports TensorFlow for all of them.
pytestmark = pytest.mark.xdist_group("tensorflow")


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Memory-mapped, as from the cache."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("split") / "images.npy"
    np.save(path, random.integers(0, 256, (100, 8, 8, 3), dtype=np.uint8))
    labels = random.integers(0, 10, 100, dtype=np.int32)
    return Split(np.load(path, mmap_mode="r"), labels)


@pytest.fixture(scope="module")
def index_batches():
    return epoch_indices(np.arange(5, 97, dtype=np.int32), seed=3, epoch=1, batch_size=16)


def _assert_equal(batch, expected):
    assert batch.keys() == expected.keys() == {"image", "label", "index"}
    for key, value in expected.items():
        assert batch[key].dtype == value.dtype
        np.testing.assert_array_equal(batch[key], value)


def test_host_batches_are_those_of_the_order(split, index_batches):
    batches = list(train_batches(split, index_batches))
    assert len(batches) == len(index_batches) == 5
    for batch, index in zip(batches, index_batches, strict=True):
        expected = {"image": split.images[index], "label": split.labels[index], "index": index}
        _assert_equal(batch, expected)
        assert isinstance(batch["image"], np.ndarray)


def test_resident_batches_equal_the_hosts(split, index_batches):
    device = resident.put(split)
    assert device["image"].dtype == np.uint8
    gather = jax.jit(resident.gather)
    for batch in train_batches(split, index_batches):
        _assert_equal(gather(device, batch["index"]), batch)


def test_resident_data_can_lie_on_every_device(split):
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    device = resident.put(split, everywhere)
    assert device["image"].sharding.is_fully_replicated
    shape = split.images.shape
    np.testing.assert_array_equal(device["image"].reshape(shape), split.images)


def test_an_epoch_can_start_anywhere_and_stop_early(split, index_batches):
    later = list(train_batches(split, index_batches[3:]))
    for batch, expected in zip(later, list(train_batches(split, index_batches))[3:], strict=True):
        _assert_equal(batch, expected)
    first = list(itertools.islice(train_batches(split, index_batches), 1))
    np.testing.assert_array_equal(first[0]["index"], index_batches[0])
