"""Both pipelines against each other and against NumPy."""

import itertools

import jax
import numpy as np
import pytest

from flaxcifar.data.dataset import Split
from flaxcifar.data.order import epoch_indices
from flaxcifar.data.pipelines import make_pipeline
from flaxcifar.data.pipelines.resident import gather

NAMES = ("host", "resident")
HOST, RESIDENT = map(make_pipeline, NAMES)


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
    batches = list(HOST.batches(split, index_batches))
    assert len(batches) == len(index_batches) == 5
    for batch, index in zip(batches, index_batches, strict=True):
        expected = {"image": split.images[index], "label": split.labels[index], "index": index}
        _assert_equal(batch, expected)
        assert isinstance(batch["image"], np.ndarray)
    assert HOST.put(split) == {}


def test_resident_batches_equal_the_hosts(split, index_batches):
    on_device = RESIDENT.put(split)
    assert on_device["image"].dtype == np.uint8
    compiled = jax.jit(gather)
    pairs = (pipeline.batches(split, index_batches) for pipeline in (RESIDENT, HOST))
    for sent, expected in zip(*pairs, strict=True):
        assert sent.keys() == {"index"}
        _assert_equal(compiled(on_device, sent["index"]), expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_blank_batch_looks_like_the_others(split, index_batches, name):
    pipeline = make_pipeline(name)
    batch, blank = next(pipeline.batches(split, index_batches)), pipeline.blank_batch(split, 16)
    assert {key: (x.shape, x.dtype) for key, x in blank.items()} == {
        key: (x.shape, x.dtype) for key, x in batch.items()
    }


def test_only_the_host_pipeline_leaves_images_on_disk():
    assert HOST.memory_limit(3.0) == 3e9
    assert 2**25 < HOST.memory_limit(0.0) < 2**50
    assert RESIDENT.memory_limit(3.0) == RESIDENT.memory_limit(0.0) == np.inf


def test_an_epoch_can_start_anywhere_and_stop_early(split, index_batches):
    later, whole = HOST.batches(split, index_batches[3:]), HOST.batches(split, index_batches)
    for batch, expected in zip(later, list(whole)[3:], strict=True):
        _assert_equal(batch, expected)
    first = list(itertools.islice(HOST.batches(split, index_batches), 1))
    np.testing.assert_array_equal(first[0]["index"], index_batches[0])
