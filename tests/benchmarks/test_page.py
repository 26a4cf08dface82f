"""The page of results: the latest run of each kind, in Markdown."""

import json

import pytest
from fake_worker import fake, run  # noqa: F401

from benchmarks import freezing, page, throughput
from flaxcifar.errors import UserError

PAGE = "\n".join(f"<!-- {name} -->\nold\n<!-- end of {name} -->" for name in page.BENCHMARKS)


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_latest_run_of_each_kind_is_shown(tmp_path):
    flags = ("--models", "crcv", "--precision", "float32", "--frameworks", "flaxcifar,keras-jax")
    rows = [row | {"quick": False} for row in run(throughput, tmp_path, *flags)]
    later = [row | {"run": "2031-02-03T04:05:06", "images_per_second": 77.0} for row in rows[:1]]
    quick = [row | {"run": "2032-01-01", "quick": True, "framework": "torch"} for row in rows]
    other = [row | {"model": "vgg16"} for row in rows]
    elsewhere = [row | {"device": "a GPU"} for row in rows[:1]]
    write(tmp_path / "results" / "throughput.jsonl", other + elsewhere + rows + later + quick)
    (tmp_path / "RESULTS.md").write_text(PAGE)
    page.main(["--results", str(tmp_path / "results")])
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.count("| model |") == 3  # vgg16's, crcv's on another device and its later run
    assert "| crcv | float32 | flaxcifar | 77.0 |" in text and "2031-02-03" in text
    assert text.count("keras-jax") == 1 and "torch" not in text
    assert text.count("Not measured yet.") == len(page.BENCHMARKS) - 1 and "old" not in text
    assert (tmp_path / "results" / "throughput.png").exists()


def test_frameworks_that_one_command_measures_one_by_one_stand_together(tmp_path):
    flags = ("--models", "vgg16", "--frameworks", "flaxcifar,keras-tensorflow")
    rows = [row | {"quick": False} for row in run(freezing, tmp_path, *flags)]
    found = page.latest([json.dumps(row) for row in rows])
    assert [len(group) for group in found] == [4]


def test_a_page_without_its_marks_is_refused(tmp_path):
    (tmp_path / "RESULTS.md").write_text("nothing")
    with pytest.raises(UserError, match="RESULTS.md must have <!-- throughput -->"):
        page.main(["--results", str(tmp_path / "results")])
    with pytest.raises(UserError, match="RESULTS.md does not exist"):
        page.main(["--results", str(tmp_path / "elsewhere" / "results")])
