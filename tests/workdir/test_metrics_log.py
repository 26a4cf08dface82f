import contextlib
import json

from flaxcifar.workdir.metrics_log import MetricsLog, rewind_metrics

TIMING = {"images_per_second": 10.0, "seconds": 1.0}


def rows(count):
    return [{"epoch": n, "step": 5 * n, "train_loss": 1 / (n + 2)} for n in range(1, count + 1)]


def write(workdir, rows):
    with contextlib.closing(MetricsLog(workdir)) as log:
        for row in rows:
            log.write(row, TIMING)


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_kept_to_the_bit_and_appended(tmp_path):
    write(tmp_path, rows(3)[:2])
    write(tmp_path, rows(3)[2:])
    assert read_lines(tmp_path / "metrics.jsonl") == rows(3)
    assert [line["step"] for line in read_lines(tmp_path / "timing.jsonl")] == [5, 10, 15]


def test_opening_a_log_changes_no_row(tmp_path):
    write(tmp_path, rows(3))
    for name in ("metrics.jsonl", "timing.jsonl"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + '{"epoch": 4, "st')
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    write(tmp_path, [])
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")} == before


def test_rewinding_removes_what_was_written_after_the_checkpoint(tmp_path):
    write(tmp_path, rows(3))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "st')
    rewind_metrics(tmp_path, rows(2))
    assert read_lines(tmp_path / "metrics.jsonl") == rows(2)
    assert [line["step"] for line in read_lines(tmp_path / "timing.jsonl")] == [5, 10]
    write(tmp_path, rows(3)[2:])
    assert read_lines(tmp_path / "metrics.jsonl") == rows(3)


def test_rewinding_adds_a_row_that_was_saved_but_not_written(tmp_path):
    write(tmp_path, rows(1))
    rewind_metrics(tmp_path, rows(2))
    assert read_lines(tmp_path / "metrics.jsonl") == rows(2)
