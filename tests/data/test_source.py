import os
from dataclasses import replace

import pytest

from flaxcifar.data import source as module
from flaxcifar.data.source import Source, content_key
from flaxcifar.errors import UserError


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "notes"
    path.mkdir()
    return path


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "a").write_bytes(b"one")
    (root / "sub/b").write_bytes(b"two")
    return Source("name", "recipe", lambda: None, root, ("a", "sub/b"))


def test_the_key_is_that_of_content_names_and_recipe(source, notes, tmp_path):
    key = content_key(source, notes)
    assert len(bytes.fromhex(key)) == 32
    assert content_key(replace(source, recipe="other"), notes) != key
    assert content_key(replace(source, files=("a",)), notes) != key
    os.rename(source.root, tmp_path / "elsewhere")
    moved = replace(source, root=tmp_path / "elsewhere")
    assert content_key(moved, notes) == key
    os.rename(moved.root / "a", moved.root / "c")
    assert content_key(replace(moved, files=("c", "sub/b")), notes) != key


def test_changed_content_of_the_same_size_and_time_is_seen(source, notes):
    key, path = content_key(source, notes), source.root / "a"
    before = path.stat()
    path.write_bytes(b"eno")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert content_key(source, notes) != key


def test_unchanged_files_are_not_read_again(source, notes, monkeypatch):
    key = content_key(source, notes)
    monkeypatch.setattr(module, "_content", None)
    assert content_key(source, notes) == key


def test_a_damaged_note_does_not_matter(source, notes):
    key = content_key(source, notes)
    (note,) = notes.iterdir()
    note.write_text(key[:10])
    assert content_key(source, notes) == key
    assert note.read_text() == key


def test_only_regular_files_are_opened(source, notes):
    (source.root / "device").symlink_to("/dev/null")
    with pytest.raises(UserError, match="device is not a regular file"):
        content_key(replace(source, files=("device",)), notes)


def test_a_file_that_cannot_be_read_is_named(source, notes):
    with pytest.raises(UserError, match="cannot read .*missing"):
        content_key(replace(source, files=("missing",)), notes)
