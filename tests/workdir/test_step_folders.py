"""Folders that are published whole, and whose damage is found."""

import os
import shutil

import pytest

from flaxcifar.workdir.step_folders import StepFolders


def fill(text):
    def write(folder):
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_text(text)
        (folder / "b").write_bytes(bytes(range(256)))

    return write


def write(folders, step, fill):
    folders.publish(folders.write(fill), step)


@pytest.fixture
def folders(tmp_path):
    folders = StepFolders(tmp_path / "folders")
    write(folders, 3, fill("three"))
    return folders


def test_steps_come_newest_first(folders):
    assert StepFolders(folders.root / "none").steps() == []
    write(folders, 12, fill("twelve"))
    (folders.root / "notes").mkdir()
    assert folders.steps() == [12, 3]
    assert (folders[12] / "inner" / "a").read_text() == "twelve"
    folders.remove(12)
    folders.remove(99)
    assert folders.steps() == [3]


def test_a_second_write_replaces_the_first(folders):
    write(folders, 3, fill("again"))
    assert (folders[3] / "inner" / "a").read_text() == "again" and folders.damage(3) is None


def test_what_is_not_published_is_not_there(folders):
    folders.write(fill("seven"))
    assert folders.steps() == [3]
    folders.clean()
    assert [path.name for path in folders.root.iterdir()] == ["3"]


@pytest.mark.parametrize("name", ["inner/a", "b", "manifest.json"])
@pytest.mark.parametrize("how", ["flip", "truncate", "delete", "lengthen"])
def test_every_damage_is_found(folders, name, how):
    assert folders.damage(3) is None
    path = folders[3] / name
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 1
    if how == "truncate":
        del data[-1]
    if how == "lengthen":
        data += b"x"
    path.unlink() if how == "delete" else path.write_bytes(data)
    assert folders.damage(3)
    if name != "manifest.json":
        assert name in folders.damage(3)


def test_what_does_not_belong_there_and_what_is_not_there(folders):
    (folders[3] / "inner" / "c").write_text("")
    assert folders.damage(3) == "inner/c does not belong there"
    assert folders.damage(4) == "manifest.json is missing"
    (folders[3] / "manifest.json").write_text("[]")
    assert "cannot be read" in folders.damage(3)


class Killed(BaseException):
    pass


def test_killed_at_any_operation_a_step_is_whole_or_not_there(tmp_path, monkeypatch):
    """Dies before the first, the second, ... operation on files of a write that replaces."""
    names = {os: ("rename", "fsync", "open"), shutil: ("rmtree",)}
    real = {(owner, name): getattr(owner, name) for owner in names for name in names[owner]}
    deaths, finished = 0, False
    while not finished:
        folders, left = StepFolders(tmp_path / str(deaths)), deaths
        write(folders, 1, fill("old"))

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
                write(folders, 1, fill("new"))
                finished = True
            except Killed:
                deaths += 1
        after = StepFolders(folders.root)
        if after.steps():
            assert after.damage(1) is None
        after.clean()
        assert [path.name for path in after.root.iterdir()] in (["1"], [])
    assert deaths > 10


def test_a_failed_write_leaves_the_old_and_no_rest(folders):
    def fail(folder):
        (folder / "half").write_text("half")
        raise OSError(28, os.strerror(28))

    with pytest.raises(OSError, match="No space"):
        write(folders, 3, fail)
    assert folders.damage(3) is None and os.listdir(folders.root) == ["3"]
