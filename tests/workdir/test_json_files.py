import os
import shutil
from pathlib import Path

import pytest

from flaxcifar.errors import UserError
from flaxcifar.workdir.json_files import read_json, read_rows, write_json
from flaxcifar.workdir.summary_file import read_summary

OLD_RUN = Path(__file__).parents[1] / "fixtures/workdir-0.1/run"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})

    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[]", b"3", b'"text"', b"null"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match="file is damaged .* move it away"):
        read_json(tmp_path / "file")


@pytest.mark.parametrize(
    "change",
    [
        {"test": None},
        {"test": {"accuracy": 0.5}},
        {"validation": []},
        {"config": {}},
        {"config": {"model": "vgg16"}},
        {"steps": "9"},
        {"steps": None},
        {"devices": "cpu"},
        {"timing": {"total_seconds": 1.0}},
    ],
)
def test_a_summary_of_another_shape_is_damaged(tmp_path, change):
    shutil.copy(OLD_RUN / "summary.json", tmp_path)
    summary = read_summary(tmp_path)
    assert summary["stop_reason"] == "completed"
    write_json(tmp_path / "summary.json", summary | change)
    with pytest.raises(UserError, match="summary.json is damaged .* move it away"):
        read_summary(tmp_path)


def test_a_file_that_is_missing_has_no_content(tmp_path):
    assert read_json(tmp_path / "nothing") is None and read_rows(tmp_path / "nothing") == []


@pytest.mark.parametrize(
    "line", [b'{"step": 3', b"\xff", b"[]", b"3", b"{}", b'{"step": "3"}', b'{"step": 3, "a": []}']
)
def test_rows_end_before_a_damaged_line(tmp_path, line):
    (tmp_path / "rows").write_bytes(b'{"step": 1}\n{"step": 2, "a": NaN}\n' + line + b"\n{}")
    assert [row["step"] for row in read_rows(tmp_path / "rows")] == [1, 2]
