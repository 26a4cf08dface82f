import shutil

import pytest

from flaxcifar.errors import UserError
from flaxcifar.workdir.run_folder import check_space, fresh_workdir, locked, prepare


def test_fresh_workdirs_never_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(4):
        names.append(fresh_workdir("vgg-cifar10"))
        assert not names[-1].exists()
        prepare(names[-1])
    assert len(set(names)) == 4
    assert all(name.parts[0] == "runs" and "vgg-cifar10" in name.name for name in names)


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("{")
    with pytest.raises(UserError, match="cannot write to .*file"):
        prepare(tmp_path / "file")


def test_a_lock_is_for_one_run_and_ends_with_it(tmp_path):
    with locked(tmp_path), pytest.raises(UserError, match="another run is using"):
        with locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def test_a_disk_with_too_little_space(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    check_space(tmp_path, free // 2)
    with pytest.raises(UserError, match="left on its disk.*free some space"):
        check_space(tmp_path, 4 * free)
