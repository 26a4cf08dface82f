import os

import numpy as np
import pytest
from PIL import Image

from flaxcifar.data.sources.folder import folder
from flaxcifar.errors import UserError


def _make(root, counts, first=0):
    """Writes counts[class] images whose red is a running number and whose green is the class's."""
    number = first
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            image = Image.new("RGB", (6, 6), (number, label, 0))
            image.save(root / name / f"{i:03}.png")
            number += 1


def _open(root, image_size=6):
    return folder(str(root), image_size).decode(lambda shape: np.empty(shape, np.uint8))


def test_train_and_test_folders(tmp_path):
    _make(tmp_path / "pets/train", {"cat": 3, "dog": 5})
    _make(tmp_path / "pets/test", {"cat": 2, "dog": 1}, first=100)
    dataset = _open(tmp_path / "pets", 4)
    assert dataset.name == "pets" and dataset.class_names == ("cat", "dog")
    assert dataset.train.images.shape == (8, 4, 4, 3)
    assert dataset.train.images[:, 0, 0, 0].tolist() == list(range(8))
    assert dataset.train.labels.tolist() == [0] * 3 + [1] * 5
    assert dataset.test.images[:, 0, 0, 0].tolist() == [100, 101, 102]
    assert dataset.test.labels.tolist() == [0, 0, 1]
    for split in (dataset.train, dataset.test):
        np.testing.assert_array_equal(split.images[:, 0, 0, 1], split.labels)


def test_a_fifth_of_every_class_becomes_the_test_split(tmp_path):
    _make(tmp_path, {"a": 10, "b": 20, "c": 30})
    first, again = _open(tmp_path), _open(tmp_path)
    assert np.bincount(first.test.labels).tolist() == [2, 4, 6]
    assert np.bincount(first.train.labels).tolist() == [8, 16, 24]
    numbers = np.concatenate([s.images[:, 0, 0, 0] for s in (first.train, first.test)])
    np.testing.assert_array_equal(np.sort(numbers), np.arange(60))
    np.testing.assert_array_equal(first.test.images, again.test.images)


def test_deeper_folders_and_files_that_are_no_images(tmp_path):
    _make(tmp_path, {"a/images/more": 5, "b": 5})
    _make(tmp_path, {".hidden": 3})
    (tmp_path / "a/.DS_Store").write_text("x")
    (tmp_path / "b/Thumbs.db").write_text("x")
    (tmp_path / "README").write_text("x")
    dataset = _open(tmp_path)
    assert len(dataset.train) + len(dataset.test) == 10
    assert dataset.class_names == ("a", "b")


def test_only_regular_files_are_opened(tmp_path, capsys):
    _make(tmp_path, {"a": 5, "b": 5})
    os.mkfifo(tmp_path / "a/pipe.png")
    (tmp_path / "b/device.png").symlink_to("/dev/zero")
    (tmp_path / "b/link.png").symlink_to("000.png")
    source = folder(str(tmp_path), 6)
    assert len(source.files) == 11 and "b/link.png" in source.files
    said = capsys.readouterr().out.splitlines()
    paths = [tmp_path / name for name in ("a/pipe.png", "b/device.png")]
    assert said == [f"{path} is not a regular file: skipped" for path in paths]


def test_a_class_may_be_called_train(tmp_path):
    _make(tmp_path, {"car": 5, "train": 5})
    assert _open(tmp_path).class_names == ("car", "train")


def test_the_files_decide_what_is_cached(tmp_path):
    _make(tmp_path, {"a": 2, "b": 3})
    source = folder(str(tmp_path), 6)
    assert source.files == ("a/000.png", "a/001.png", "b/000.png", "b/001.png", "b/002.png")
    assert source.root == tmp_path
    assert folder(str(tmp_path), 8).recipe != source.recipe


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({}, "at least two classes, got 0"),
        ({"a": 3}, "at least two classes, got 1"),
        ({"a": 3, "b": 0}, "class folder .*b has no images"),
        ({"a": 1, "b": 1}, r"too few images \(2\)"),
        ({"train/a": 3, "train/b": 3}, "test must have a sub-folder .* got 0"),
        ({"train/a": 3, "train/b": 3, "test/a": 1, "test/c": 1}, "same classes; only one has b, c"),
        ({"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 0}, "test/b has no images"),
    ],
)
def test_folders_that_do_not_fit(tmp_path, folders, message):
    _make(tmp_path, folders)
    with pytest.raises(UserError, match=message):
        folder(str(tmp_path), 6)


@pytest.mark.parametrize("directory", ["", "missing"])
def test_no_folder(directory):
    with pytest.raises(UserError, match="data.dir must be a folder of images"):
        folder(directory, 6)


def test_an_unreadable_image_is_named(tmp_path):
    _make(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "b/note.txt").write_text("no image")
    with pytest.raises(UserError, match="cannot read the image .*note.txt"):
        _open(tmp_path)
