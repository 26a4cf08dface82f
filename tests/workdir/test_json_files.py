import os

import pytest

from flaxcifar.errors import UserError
from flaxcifar.workdir.json_files import read_json, read_rows, write_json


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})

    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}


def test_missing_and_damaged_files(tmp_path):
    (tmp_path / "file").write_text("{")
    with pytest.raises(UserError, match="file is damaged .* move it away"):
        read_json(tmp_path / "file")
    assert read_json(tmp_path / "nothing") is None and read_rows(tmp_path / "nothing") == []


def test_rows_end_before_an_incomplete_line(tmp_path):
    (tmp_path / "rows").write_text('{"a": 1}\n{"a": 2}\n{"a": 3')
    assert read_rows(tmp_path / "rows") == [{"a": 1}, {"a": 2}]
