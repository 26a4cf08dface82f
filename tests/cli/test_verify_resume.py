"""The comparison of two runs, and the command."""

import json

import pytest
import tiny
from commands import run

from flaxcifar.cli.verify_resume import differences
from flaxcifar.training.loop import train_and_evaluate


@pytest.fixture
def runs(tmp_path):
    for name in ("one", "other"):
        train_and_evaluate(tiny.config(total_epochs=1), tmp_path / name)
    return tmp_path / "one", tmp_path / "other"


def test_the_same_run_twice_and_what_is_changed_in_one(runs):
    assert differences(*runs) == []
    summary = json.loads((runs[1] / "summary.json").read_text())
    summary["test"]["loss"] += 1e-9
    (runs[1] / "summary.json").write_text(json.dumps(summary))
    assert [line.split(" is ")[0] for line in differences(*runs)] == ["summary.test"]
    with (runs[1] / "metrics.jsonl").open("a") as file:
        file.write("{}\n")
    lines = differences(*runs)
    assert "line 2 of metrics.jsonl is missing uninterrupted and {} after kills" in lines


def test_another_seed_is_another_state(runs, tmp_path):
    train_and_evaluate(tiny.config(total_epochs=1, seed=1), tmp_path / "third")
    names = [line.split(" is ")[0] for line in differences(runs[0], tmp_path / "third")]
    assert {"state", "state.params.head/bias", "best params.head/bias"} <= set(names)


def test_the_command(place):
    flags = ("--config", "config.py", "--steps", "9", "--kills", "2")
    out, _ = run(place, "flaxcifar", "verify_resume", *flags)
    assert "killed 1 of" in out and "exact: bit-identical after 2 kills" in out
    _, err = run(place, "flaxcifar", "verify_resume", *flags[:2], "--kills", "0", code=2)
    assert "must be at least 1" in err
