import io
import time

import pytest
from rich.console import Console

from flaxcifar import console
from flaxcifar.console import TrainingProgress, clock_time, percent

VALUES = {"loss": 1.25, "accuracy": 0.5, "top5_accuracy": 0.75, "examples": 1234}


@pytest.fixture
def screen(monkeypatch):
    """A function that makes the console write to a string, as a terminal or not."""

    def use(terminal):
        fake = Console(file=io.StringIO(), force_terminal=terminal, width=160, highlight=False)
        monkeypatch.setattr(console, "console", fake)
        return fake.file

    return use


def test_plain_lines_where_output_is_no_terminal(screen, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    out = screen(terminal=False)
    with TrainingProgress(total_steps=100, total_epochs=4, interval=30.0) as progress:
        assert not progress.due()
        now[0] = 31.0
        assert progress.due()
        progress.update(10, 1, VALUES, 1000.0)
        assert not progress.due()
        now[0] = 51.0
        progress.update(20, 1, VALUES, 1000.0)
    lines = out.getvalue().splitlines()
    assert lines[0] == "epoch 1/4  step 10/100  loss 1.250  accuracy 50.00 %  1,000 img/s"
    # 20 s for 10 steps leaves 160 s for the other 80.
    assert lines[1].endswith("0:02:40 left")
    assert "\x1b" not in out.getvalue()


def test_work_that_takes_long_says_so_in_lines(screen, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    out = screen(terminal=False)
    with console.working("decoding", 100) as advance:
        for _ in range(4):
            now[0] += 16.0
            advance(25)
    assert out.getvalue().splitlines() == [
        "decoding: 50 of 100 after 0:00:32",
        "decoding: 100 of 100 after 0:01:04",
        "decoding: done after 0:01:04",
    ]
    out = screen(terminal=False)
    with console.working("evaluating", 10) as advance:
        now[0] += 2.0
        advance(10)
    assert not out.getvalue()


def test_work_has_a_bar_on_a_terminal_even_within_training(screen):
    out = screen(terminal=True)
    with TrainingProgress(total_steps=100, total_epochs=4):
        with console.working("evaluating", 40) as advance:
            advance(40)
            time.sleep(0.3)  # the screen is drawn ten times a second
    text = out.getvalue()
    assert "evaluating" in text and "40/40" in text


def test_an_error_within_work_is_raised(screen):
    screen(terminal=True)
    with pytest.raises(ValueError, match="broken"), console.working("decoding"):
        raise ValueError("broken")


def test_a_bar_on_a_terminal(screen):
    out = screen(terminal=True)
    with TrainingProgress(total_steps=100, total_epochs=4) as progress:
        progress.update(50, 2, VALUES, 1000.0)
    text = out.getvalue()
    assert "epoch 2/4" in text and "50/100" in text and "1,000 img/s" in text
    assert "step 50/100" not in text


def test_an_epochs_line_marks_the_best(screen):
    row = {"epoch": 3, "step": 30, "learning_rate": 0.05, "train_loss": 1.0, "train_accuracy": 0.6}
    row |= {"validation_loss": 1.1, "validation_accuracy": 0.55}
    out = screen(terminal=False)
    with TrainingProgress(total_steps=100, total_epochs=4) as progress:
        progress.epoch(row, 900.0, 65.0, best=True)
        progress.epoch(row, 900.0, 65.0, best=False)
    best, other = out.getvalue().splitlines()
    assert "accuracy 55.00 % *" in best and "*" not in other
    assert best.endswith("lr 0.05  900 img/s  0:01:05")


def test_a_table(screen):
    out = screen(terminal=False)
    console.show(console.table("Prices", ("fruit", "price"), [("apple", "1"), ("pear", "20")]))
    lines = out.getvalue().splitlines()
    assert lines[0].rstrip() == "Prices" and "fruit │ price" in lines[2].replace("┃", "│")
    assert "apple │     1" in out.getvalue() and "pear  │    20" in out.getvalue()
    console.show(console.table("Plan", ("", ""), [("a", "1")], justify="ll", footers=("sum", "9")))
    assert "fruit" not in out.getvalue().split("Plan")[1] and "sum │ 9" in out.getvalue()


def test_figures():
    assert clock_time(3723.4) == "1:02:03"
    assert percent(0.123) == "12.30 %"
