import json

import pytest

from flaxcifar.errors import UserError
from flaxcifar.workdir import files
from flaxcifar.workdir.files import Logbook, fresh_workdir, prepare, read_json, write_json

TIMING = {"images_per_second": 10.0, "seconds": 1.0}


def rows(count):
    return [{"epoch": n, "step": 5 * n, "train_loss": 1 / (n + 2)} for n in range(1, count + 1)]


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_kept_to_the_bit(tmp_path):
    logbook = Logbook(tmp_path, [])
    for row in rows(3):
        logbook.write(row, TIMING)
    logbook.close()
    assert read_lines(tmp_path / "metrics.jsonl") == rows(3)
    assert [line["step"] for line in read_lines(tmp_path / "timing.jsonl")] == [5, 10, 15]


def test_what_an_interrupted_run_wrote_after_its_checkpoint_goes(tmp_path):
    logbook = Logbook(tmp_path, [])
    for row in rows(3):
        logbook.write(row, TIMING)
    logbook.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "st')
    logbook = Logbook(tmp_path, rows(2))
    logbook.write(rows(3)[2], TIMING)
    logbook.close()
    assert read_lines(tmp_path / "metrics.jsonl") == rows(3)


def test_tensorboard_has_the_scalars(tmp_path):
    logbook = Logbook(tmp_path, [])
    logbook.write(rows(1)[0], TIMING)
    logbook.close()
    data = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"train/loss" in data and b"images_per_second" in data


def test_fresh_workdirs_never_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(4):
        names.append(fresh_workdir("vgg-cifar10"))
        assert not names[-1].exists()
        prepare(names[-1])
    assert len(set(names)) == 4
    assert all(name.parts[0] == "runs" and "vgg-cifar10" in name.name for name in names)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})

    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}


def test_bad_places_and_files_are_the_users_to_mend(tmp_path):
    (tmp_path / "file").write_text("{")
    with pytest.raises(UserError, match="cannot write to .*file"):
        prepare(tmp_path / "file")
    with pytest.raises(UserError, match="is damaged"):
        read_json(tmp_path / "file")
    assert read_json(tmp_path / "nothing") is None
