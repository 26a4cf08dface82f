"""Statistics over seeds, and the choice of a setting."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import tiny

from flaxcifar import console
from flaxcifar.search.plan import Run
from flaxcifar.search.results import choose, plot, spread, summarize, table

OLD_RUN = Path(__file__).parents[1] / "fixtures/workdir-0.1/run"


def test_the_spread_of_several_seeds_by_scipy():
    values = [0.71, 0.74, 0.72, 0.78]
    found = spread(values)
    low, high = scipy.stats.t.interval(0.95, 3, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["deviation"] == pytest.approx(np.std(values, ddof=1))
    assert found["interval"] == pytest.approx([low, high])
    assert spread([0.5])["interval"] is None


@pytest.fixture
def rows(tmp_path):
    """Two settings of two seeds; a seed of the better one has failed."""
    runs = [Run({"a": a}, tiny.config(seed=seed)) for a in ("1", "2") for seed in (0, 1)]
    accuracies = (0.5, 0.75, None, 0.875)
    for run, accuracy in zip(runs, accuracies, strict=True):
        (tmp_path / run.name).mkdir()
        if accuracy is None:
            continue
        metrics = {"examples": 9, "accuracy": accuracy, "top5_accuracy": 1.0, "loss": 2 - accuracy}
        summary = json.loads((OLD_RUN / "summary.json").read_text())
        summary["timing"]["total_seconds"] = 3.0
        summary |= {"validation": metrics, "test": metrics, "test_augmented": None}
        (tmp_path / run.name / "summary.json").write_text(json.dumps(summary))
    return summarize(runs, tmp_path, [None, None, "it diverged", None])


def test_a_setting_is_summarized_over_the_seeds_that_ended(rows):
    one, two = rows
    assert one["seeds"] == two["seeds"] == [0, 1] and one["values"] == {"a": "1"}
    assert one["test_accuracy"]["values"] == [0.5, 0.75] and not one["failed"]
    assert two["test_accuracy"]["values"] == [0.875] and two["failed"] == ["it diverged"]
    assert "test_augmented_accuracy" not in one and one["seconds"] == [3.0, 3.0]


def test_the_best_setting_is_that_of_the_validation_metric_without_failures(rows):
    one, two = rows
    assert choose(rows, tiny.config()) is one
    two["failed"] = []
    for metric, mode, best in (
        ("accuracy", "max", two),
        ("loss", "min", two),
        ("loss", "max", one),
    ):
        changes = {"early_stopping.metric": metric, "early_stopping.mode": mode}
        assert choose(rows, tiny.config(**changes)) is best
    assert choose([], tiny.config()) is None


def test_the_table_and_the_plot(rows, tmp_path, capsys):
    console.show(table(rows, rows[0]))
    text = capsys.readouterr().out
    assert "a=1 (best)" in text and "62.50 % ± 17.68 [" in text and "2, 1 failed" in text
    assert "validation accuracy" in text and "augmented" not in text
    plot(rows, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 5000
