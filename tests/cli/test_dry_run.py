import itertools
import re
import time

import jax
import pytest
import quick
from hypothesis import given
from hypothesis import strategies as st

from flaxcifar.cli import dry_run as dry_run_module
from flaxcifar.cli.dry_run import dry_run, plot, spread_of, spread_words
from flaxcifar.devices import parallel
from flaxcifar.errors import UserError
from flaxcifar.training.loop import make_train_fn, train_and_evaluate


@pytest.fixture(autouse=True, scope="module")
def one_device():
    with parallel.using(jax.devices()[:1]):
        yield


def files(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_the_plan_is_printed_and_nothing_written(tmp_path, capsys):
    changes = {
        "progressive_sizes": ((50, 6),),
        "param_groups": (("stage1", "frozen"), ("head", 0.1)),
    }
    dry_run(quick.config(**changes, report=True), tmp_path / "new", seconds=0.2)
    text = capsys.readouterr().out
    assert not (tmp_path / "new").exists()
    assert "stage1/conv" in text and "frozen:" in text and "squares, fingerprint " in text
    assert "trained at 0.1 x the rate" in text
    assert "for 18 steps" in text and "report.html" in text
    # Two validations of 48 images and the test split of 50.
    assert "for 146" in text
    assert re.search(r"total +│ about 0:00:\d\d", text)
    assert re.search(r"memory +│ [\d,]+ MB at most", text)
    assert text.rstrip().endswith("nothing was written")


def test_the_estimate_says_how_steady_the_machine_was(tmp_path, capsys, monkeypatch):
    """Every second step seems to take five times as long."""
    waits = itertools.cycle((0.02, 0.1))

    def busy(experiment):
        train_fn = make_train_fn(experiment)

        def slower(*args):
            time.sleep(next(waits))
            return train_fn(*args)

        return slower

    monkeypatch.setattr(dry_run_module, "make_train_fn", busy)
    dry_run(quick.config(), tmp_path / "new", seconds=0.5)
    text = capsys.readouterr().out
    assert re.search(r"times of steps vary by \d+ %: the machine is busy", text)
    dry_run(quick.config(**{"total_steps": 2}), tmp_path / "new", seconds=0.1)
    assert "unknown: fewer than 4 dispatches were timed" in capsys.readouterr().out
    assert spread_words(spread_of([1.0, 1.01, 0.99, 1.0])) == "times of steps vary by 1 %"


def test_a_workdir_that_is_there_is_left_alone(tmp_path, capsys):
    train_and_evaluate(quick.config(total_steps=2), tmp_path)
    before = files(tmp_path)
    dry_run(quick.config(total_steps=4), tmp_path, seconds=0.2)
    assert files(tmp_path) == before
    assert "holds this run: training would resume" in capsys.readouterr().out
    with pytest.raises(UserError, match="batch_size was 16, now 8"):
        dry_run(quick.config(batch_size=8), tmp_path)


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=64))
def test_the_plot_is_as_high_as_the_values(values):
    rows = [line[9:] for line in plot(values)]
    assert len(rows) == 8 and {len(row) for row in rows} == {len(values)}
    most = max(values)
    for n, value in enumerate(values):
        eighths = sum(" ▁▂▃▄▅▆▇█".index(row[n]) for row in rows)
        expected = 64 * value / most if most else 0
        assert expected - 1e-6 <= eighths <= expected + 1 + 1e-6
