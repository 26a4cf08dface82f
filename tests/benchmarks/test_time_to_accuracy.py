"""Rows and tables of time to accuracy, from fake runs."""

import json
import subprocess

import pytest

from benchmarks import time_to_accuracy
from flaxcifar.errors import UserError


def summary(name, seed):
    accuracy = {"speed94": 0.90, "crcv": 0.75}[name.split(":")[0]] + 0.01 * seed
    return {
        "steps": 200,
        "epochs": 8.0,
        "config": {"batch_size": 100, "precision": "float32"},
        "timing": {"images_per_second": 1000.0},
        "devices": ["cpu"],
        "convolution": "jax",
        "versions": {"python": "3", "flaxcifar": "0", "jax": "0.10.2"},
        "test": {"accuracy": accuracy},
        "test_augmented": {"accuracy": accuracy + 0.01} if name == "speed94" else None,
    }


@pytest.fixture
def runs(monkeypatch):
    seen = []

    def run(name, seed, options, caches, state):
        seen.append((name, seed, state, caches))
        seconds = {"speed94": 100.0, "crcv:total_epochs=5": 30.0}[name] + seed
        return summary(name, seed), seconds / (2 if state == "warm" else 1)

    monkeypatch.setattr(time_to_accuracy, "run", run)
    return seen


def measure(tmp_path, *flags):
    output = tmp_path / "rows.jsonl"
    time_to_accuracy.main([*flags, "--output", str(output)])
    assert output.with_suffix(".png").stat().st_size > 10_000
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_every_config_has_three_clocks_and_the_mean_of_all_seeds(runs, tmp_path, capsys):
    rows = measure(tmp_path, "--configs", "speed94,crcv:total_epochs=5", "--seeds", "3")
    clocks = [(row["model"], row["clock"], row["seconds"], row["n"]) for row in rows]
    assert clocks[:3] == [
        ("speed94", "cold", 101.0, 3),
        ("speed94", "warm", 50.0, 1),
        ("speed94", "steady", 20.0, 3),
    ]
    assert rows[0]["test_accuracy"]["mean"] == pytest.approx(91)
    assert rows[0]["test_accuracy"]["deviation"] == pytest.approx(1)
    assert rows[0]["test_augmented_accuracy"]["mean"] == pytest.approx(92)
    assert rows[-1]["test_augmented_accuracy"] is None
    # A cold run has its own caches, which the following warm run reuses.
    assert runs[0][3] == runs[1][3] and len({caches for *_, caches in runs}) == 6
    lines = capsys.readouterr().out.splitlines()
    first = {
        accuracy: next((line.split() for line in lines if f" {accuracy} % " in line), None)
        for accuracy in ("70", "85")
    }
    assert "crcv:total_epochs=5" in first["70"] and "speed94" in first["85"]


def test_keras_counts_after_every_epoch(tmp_path, monkeypatch, capsys):
    stages = []

    def answer(command, **keywords):
        stages.append(command[-1])
        epochs = [{"seconds": 10.0 * n, "accuracy": 0.3 * n} for n in (1, 2)]
        found = {"epochs": epochs, "batch": 128, "device": "cpu", "versions": {"keras": "3"}}
        return subprocess.CompletedProcess(command, 0, json.dumps(found), "")

    monkeypatch.setattr(time_to_accuracy.subprocess, "run", answer)
    monkeypatch.setattr(time_to_accuracy.records.provenance, "commit", lambda: None)
    (row,) = measure(tmp_path, "--keras", "vgg", "--keras-epochs", "2", "--accuracies", "0.3,0.5")
    assert stages == ["prepare", "train"]
    assert (row["framework"], row["epochs"], row["seconds"]) == ("keras-tensorflow", 2, 20.0)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if " % " in line]
    assert [line[-2] for line in lines if "keras-tensorflow" in line] == ["10", "20"]


def test_bad_flags_are_refused(tmp_path):
    for flags, message in (
        (("--configs", "speed95"), "no such config file"),
        (("--configs", "crcv:total_epoch=5"), "did you mean 'total_epochs'"),
        (("--keras", "resnet"), "there are: vgg, crcv"),
        (("--seeds", "0"), "--seeds must be at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            time_to_accuracy.main([*flags, "--output", str(tmp_path / "rows.jsonl")])
