import errno
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from flaxcifar.data.cache import cached
from flaxcifar.data.dataset import Dataset, Split
from flaxcifar.data.on_disk import OnDisk
from flaxcifar.data.source import Source
from flaxcifar.errors import UserError


def _dataset(seed=0):
    random = np.random.default_rng(seed)
    splits = [
        Split(random.integers(0, 256, (n, 4, 4, 3), np.uint8), np.arange(n, dtype=np.int32) % 3)
        for n in (50, 20)
    ]
    return Dataset("a b/c", *splits, ("x", "y", "ü"), np.array([0, 1, 0], np.int32), ("p", "q"))


class _Decoder:
    """Counts how often it is asked."""

    def __init__(self, seed=0):
        self.seed, self.calls = seed, 0

    def __call__(self, empty=None):
        self.calls += 1
        return _dataset(self.seed)


@pytest.fixture
def decoder():
    return _Decoder()


@pytest.fixture
def source(decoder):
    return Source("a b/c", "recipe", decoder, files=())


def _entry(directory):
    (entry,) = [p for p in directory.iterdir() if p.name != "hashes" and p.name[0] != "."]
    return entry


def _assert_equal(found, expected):
    for split in ("train", "test"):
        a, b = getattr(found, split), getattr(expected, split)
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)
    assert (found.name, found.class_names) == (expected.name, expected.class_names)
    assert found.superclass_names == expected.superclass_names
    np.testing.assert_array_equal(found.superclass_of, expected.superclass_of)


def test_a_dataset_is_decoded_once_and_mapped_afterwards(source, decoder, tmp_path):
    first, second = (cached(source, str(tmp_path)) for _ in range(2))
    assert decoder.calls == 1
    for found in (first, second):
        _assert_equal(found, _dataset())
        assert isinstance(found.train.images.base, np.memmap)
        assert found.fingerprint == first.fingerprint
        assert len(bytes.fromhex(found.fingerprint)) == 32


def test_a_dataset_without_superclasses(tmp_path):
    plain = replace(_dataset(), superclass_of=None, superclass_names=())
    found = cached(Source("plain", "", lambda _: plain), str(tmp_path))
    assert found.superclass_of is None and found.superclass_names == ()


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    def fingerprint(dataset, recipe):
        return cached(Source("name", recipe, lambda _: dataset), str(tmp_path)).fingerprint

    dataset = _dataset()
    labels = (dataset.train.labels + 1) % 3
    variants = [
        dataset,
        _dataset(1),
        replace(dataset, train=Split(dataset.train.images, labels)),
        replace(dataset, class_names=("x", "y", "z")),
        replace(dataset, superclass_of=np.array([0, 1, 1], np.int32)),
    ]
    found = [fingerprint(variant, str(i)) for i, variant in enumerate(variants)]
    assert len(set(found)) == len(variants)
    assert fingerprint(dataset, "another way to the same arrays") == found[0]


def test_arrays_in_memory_are_never_taken_for_others_of_the_same_name(tmp_path):
    sources = [Source("mine", "", lambda _, seed=seed: _dataset(seed)) for seed in (0, 1, 0)]
    found = [cached(source, str(tmp_path)) for source in sources]
    for dataset, seed in zip(found, (0, 1, 0), strict=True):
        _assert_equal(dataset, _dataset(seed))
    assert len(list(tmp_path.glob("mine-*"))) == 2


@pytest.mark.parametrize("file", ["manifest.json", "train_images.npy", "test_labels.npy"])
@pytest.mark.parametrize("damage", ["delete", "empty", "cut", "longer", "other"])
def test_a_damaged_entry_is_replaced(source, decoder, tmp_path, file, damage):
    cached(source, str(tmp_path))
    path = _entry(tmp_path) / file
    content = path.read_bytes()
    if damage == "delete":
        path.unlink()
    elif damage == "other":
        np.save(tmp_path / "other.npy", np.zeros(3))
        os.replace(tmp_path / "other.npy", path)
    else:
        path.write_bytes({"empty": b"", "cut": content[:-1], "longer": content + b"x"}[damage])
    _assert_equal(cached(source, str(tmp_path)), _dataset())
    assert decoder.calls == 2
    cached(source, str(tmp_path))
    assert decoder.calls == 2


def test_an_open_dataset_survives_a_rewrite(source, tmp_path):
    found = cached(source, str(tmp_path))
    (_entry(tmp_path) / "manifest.json").unlink()
    cached(source, str(tmp_path))
    _assert_equal(found, _dataset())


@pytest.mark.parametrize("step", ["save", "dumps", "rename"])
def test_an_interrupted_write_leaves_nothing_behind(source, tmp_path, monkeypatch, step):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    where = {"save": (np, "save"), "dumps": (json, "dumps"), "rename": (os, "rename")}[step]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(*where, interrupt)
        cached(source, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["hashes"]
    _assert_equal(cached(source, str(tmp_path)), _dataset())


def test_what_killed_writers_left_is_removed_after_a_day(source, tmp_path):
    old, new = tmp_path / ".tmp-old", tmp_path / ".tmp-new"
    for path in (old, new):
        path.mkdir()
        (path / "train_images.npy").write_bytes(b"half")
    os.utime(old, (0, 0))
    cached(source, str(tmp_path))
    assert not old.exists() and new.exists()


def test_writers_at_the_same_time(source, tmp_path):
    barrier = threading.Barrier(3)
    together = replace(source, decode=lambda _: (barrier.wait(), _dataset())[1])
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: cached(together, str(tmp_path)), range(3)))
    for dataset in found:
        _assert_equal(dataset, _dataset())
    assert len(list(tmp_path.iterdir())) == 2  # the entry and the hashes


@pytest.mark.parametrize("damaged", [False, True])
def test_a_second_writer_keeps_the_entry_of_the_first_unless_it_is_damaged(
    source, tmp_path, damaged
):
    def decode_while_another_writes(_):
        cached(source, str(tmp_path))
        manifest = _entry(tmp_path) / "manifest.json"
        inodes.append(manifest.stat().st_ino)
        if damaged:
            (_entry(tmp_path) / "test_labels.npy").unlink()
        return _dataset()

    inodes = []
    found = cached(replace(source, decode=decode_while_another_writes), str(tmp_path))
    _assert_equal(found, _dataset())
    kept = (_entry(tmp_path) / "manifest.json").stat().st_ino == inodes[0]
    assert kept is not damaged


def test_a_folder_that_cannot_be_written(source, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="cannot be written.*cache_dir"):
        cached(source, str(file / "cache"))


def test_a_full_disk(source, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(UserError, match="No space left on device.*cache_dir"):
        cached(source, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["hashes"]


def test_where_the_cache_is(source, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    cached(source, "")
    assert _entry(tmp_path / "xdg" / "flaxcifar").name.startswith("a-b-c-")
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        cached(source, "")
        assert _entry(tmp_path / "home/.cache/flaxcifar")
        shutil.rmtree(tmp_path / "home")


def _fill(dataset, empty):
    """Decodes as a source does that does not hold all its images at once."""
    unused = empty((3, 4, 4, 3))
    unused[0] = 1
    splits = []
    for split in (dataset.train, dataset.test):
        images = empty(split.images.shape)
        for start in range(0, len(split), 8):
            images[start : start + 8] = split.images[start : start + 8]
        splits.append(Split(images, split.labels))
    return replace(dataset, train=splits[0], test=splits[1])


def test_images_that_a_source_fills_are_those_of_a_source_that_has_them(source, tmp_path):
    expected = cached(source, str(tmp_path / "one"))
    filled = Source("a b/c", "recipe", lambda empty: _fill(_dataset(), empty))
    found = cached(filled, str(tmp_path / "other"))
    _assert_equal(found, expected)
    assert found.fingerprint == expected.fingerprint
    names = [sorted(path.name for path in _entry(tmp_path / n).iterdir()) for n in ("one", "other")]
    assert names[0] == names[1]


@pytest.mark.parametrize("room, on_disk", [(70 * 48 - 1, True), (70 * 48 + 2 * 128, False)])
def test_images_that_are_too_many_stay_on_disk(source, tmp_path, room, on_disk):
    for _ in range(2):  # the first call decodes them
        found = cached(source, str(tmp_path), room)
        assert isinstance(found.train.images, OnDisk) is on_disk
        assert isinstance(found.train.labels, np.ndarray)
        _assert_equal(found, _dataset())


def test_a_full_disk_is_the_caches_and_an_unreadable_file_is_not(tmp_path, monkeypatch):
    def full(self, rows, images):
        raise OSError(errno.ENOSPC, "No space left on device", str(self.path))

    def unreadable(empty):
        raise PermissionError(errno.EACCES, "Permission denied", "elsewhere/cats.tar")

    with monkeypatch.context() as patch:
        patch.setattr(OnDisk, "__setitem__", full)
        with pytest.raises(UserError, match="cannot be written .No space left.*--config.data.cach"):
            cached(Source("a", "", lambda empty: _fill(_dataset(), empty)), str(tmp_path))
    with pytest.raises(PermissionError):
        cached(Source("a", "", unreadable), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["hashes"]
