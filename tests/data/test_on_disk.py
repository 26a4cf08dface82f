"""Images on disk are indexed like an array and take no memory."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxcifar.data.on_disk import OnDisk

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 4, 5, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, IMAGES)
    return OnDisk(path)


def test_it_looks_like_the_array(images):
    for name in ("shape", "dtype", "ndim", "nbytes"):
        assert getattr(images, name) == getattr(IMAGES, name)
    assert len(images) == 60
    np.testing.assert_array_equal(np.asarray(images), IMAGES)


rows = st.one_of(
    st.integers(-60, 59),
    st.slices(60),
    st.lists(st.integers(-60, 59)).map(lambda found: np.array(found, np.int32)),
    st.lists(st.integers(0, 59), min_size=4, max_size=4).map(lambda x: np.reshape(x, (2, 2))),
)


@given(rows)
def test_rows_are_numpys(images, rows):
    found = images[rows]
    np.testing.assert_array_equal(found, IMAGES[rows])
    assert found.dtype == np.uint8 and found.flags.writeable


def test_there_are_no_other_rows(images):
    for wrong in (60, -61, np.array([0, 60]), np.array([0.0]), np.zeros(60, bool)):
        with pytest.raises(IndexError):
            images[wrong]


def test_rows_are_written(tmp_path):
    images = OnDisk.create(tmp_path / "images.npy", IMAGES.shape)
    assert not np.asarray(images).any()
    for start in range(0, 58, 7):
        images[start : start + 7] = IMAGES[start : start + 7]
    for row in range(56, 60):
        images[row] = IMAGES[row]
    np.testing.assert_array_equal(np.load(tmp_path / "images.npy"), IMAGES)
    images[2:4] = IMAGES[:2, ..., :1]  # one channel for all three, as NumPy does
    np.testing.assert_array_equal(images[2:4], np.repeat(IMAGES[:2, ..., :1], 3, axis=-1))


def test_what_is_no_array_of_images_is_refused(tmp_path):
    for number, wrong in enumerate((np.zeros(3), IMAGES[0], IMAGES.astype(np.int16))):
        np.save(tmp_path / f"{number}.npy", wrong)
        with pytest.raises(ValueError, match="must be uint8"):
            OnDisk(tmp_path / f"{number}.npy")


def test_a_file_that_has_become_shorter_is_noticed(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    images = OnDisk(tmp_path / "images.npy")
    with open(images.path, "r+b") as file:
        file.truncate(2000)
    with pytest.raises(OSError, match="was truncated"):
        images[np.arange(60)]


# Decodes 61 MB piece by piece and reads them, shuffled, batch by batch: from disk, then mapped.
_EPOCHS = """
import json, re, sys
from pathlib import Path
import numpy as np
from flaxcifar.data.cache import cached
from flaxcifar.data.dataset import Dataset, Split
from flaxcifar.data.normalization import statistics
from flaxcifar.data.source import Source

COUNT = 20_000

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def decode(empty):
    images = empty((COUNT, 32, 32, 3))
    for start in range(0, COUNT, 500):
        images[start : start + 500] = np.arange(start, start + 500)[:, None, None, None] % 251
    one = Split(images[:1], np.zeros(1, np.int32))
    return Dataset("large", Split(images, np.arange(COUNT, dtype=np.int32) % 2), one, ("a", "b"))

def epoch(limit):
    dataset = cached(Source("large", "", decode), f"{sys.argv[1]}/{limit}", limit)
    train = dataset.train
    order = np.random.default_rng(0).permutation(COUNT).reshape(-1, 100)
    total = sum(int(train.images[index].sum(dtype=np.int64)) for index in order)
    found = statistics(train.images, np.arange(COUNT), "channel").to_json()
    return [total, found, dataset.fingerprint, peak() - before]

before = peak()
print(json.dumps([epoch(limit) for limit in (16e6, 1e12)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak")
def test_an_epoch_of_more_than_memory_may_hold(tmp_path):
    command = [sys.executable, "-c", _EPOCHS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, check=True)
    (*streamed, little), (*mapped, much) = json.loads(done.stdout)
    assert streamed == mapped
    assert little < 25e6 < 50e6 < much
