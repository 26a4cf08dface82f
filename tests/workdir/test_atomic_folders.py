"""Directories that are whole or not there."""

import os

import pytest

from flaxcifar.workdir import atomic_folders as module
from flaxcifar.workdir.atomic_folders import Store


def fill(text):
    def write(folder):
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_text(text)
        (folder / "b").write_bytes(bytes(range(256)))

    return write


def write(store, number, fill):
    store.write(number, fill)
    store.publish(number)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    write(store, 3, fill("three"))
    return store


def test_numbers_come_newest_first(store):
    assert Store(store.root / "none").numbers() == []
    write(store, 12, fill("twelve"))
    (store.root / "notes").mkdir()
    assert store.numbers() == [12, 3]
    assert (store[12] / "inner" / "a").read_text() == "twelve"
    store.remove(12)
    store.remove(99)
    assert store.numbers() == [3]


def test_a_second_write_replaces_the_first(store):
    write(store, 3, fill("again"))
    assert (store[3] / "inner" / "a").read_text() == "again" and store.damage(3) is None


def test_what_is_not_published_is_not_there(store):
    store.write(7, fill("seven"))
    assert store.numbers() == [3]
    store.clean()
    assert [path.name for path in store.root.iterdir()] == ["3"]


@pytest.mark.parametrize("name", ["inner/a", "b", "manifest.json"])
@pytest.mark.parametrize("how", ["flip", "truncate", "delete", "lengthen"])
def test_every_damage_is_found(store, name, how):
    assert store.damage(3) is None
    path = store[3] / name
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 1
    if how == "truncate":
        del data[-1]
    if how == "lengthen":
        data += b"x"
    path.unlink() if how == "delete" else path.write_bytes(data)
    assert store.damage(3)
    if name != "manifest.json":
        assert name in store.damage(3)


def test_what_does_not_belong_there_and_what_is_not_there(store):
    (store[3] / "inner" / "c").write_text("")
    assert store.damage(3) == "inner/c does not belong there"
    assert store.damage(4) == "manifest.json is missing"
    (store[3] / "manifest.json").write_text("[]")
    assert "cannot be read" in store.damage(3)


class Killed(BaseException):
    pass


def test_killed_at_any_operation_a_number_is_whole_or_not_there(tmp_path, monkeypatch):
    """Dies before the first, the second, ... operation on files of a write that replaces."""
    names = {module.os: ("rename", "fsync", "open"), module.shutil: ("rmtree",)}
    real = {(owner, name): getattr(owner, name) for owner in names for name in names[owner]}
    deaths, finished = 0, False
    while not finished:
        store, left = Store(tmp_path / str(deaths)), deaths
        write(store, 1, fill("old"))

        def counted(function):
            def run(*args, **kwargs):
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed
                return function(*args, **kwargs)

            return run

        with monkeypatch.context() as patch:
            for (owner, name), function in real.items():
                patch.setattr(owner, name, counted(function))
            try:
                write(store, 1, fill("new"))
                finished = True
            except Killed:
                deaths += 1
        after = Store(store.root)
        if after.numbers():
            assert after.damage(1) is None
        after.clean()
        assert [path.name for path in after.root.iterdir()] in (["1"], [])
    assert deaths > 10


def test_a_failed_write_leaves_the_old_and_no_rest(store):
    def fail(folder):
        (folder / "half").write_text("half")
        raise OSError(28, os.strerror(28))

    with pytest.raises(OSError, match="No space"):
        write(store, 3, fail)
    assert store.damage(3) is None and os.listdir(store.root) == ["3"]
