"""What a run prints: a live bar on a terminal, plain lines elsewhere."""

import contextlib
import contextvars
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

console = Console(highlight=False)
if not console.is_terminal:
    # A file or a pipe has no width; the tables should not be broken for one.
    console.width = 120


# The run of a sweep whose lines are printed in this thread.
_name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="")


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Within, lines begin with a run's name, and tables, which repeat themselves, are left out."""
    token = _name.set(name)
    try:
        yield
    finally:
        _name.reset(token)


def say(text: str) -> None:
    """Prints one line as it is."""
    name = _name.get()
    console.print(f"{name}: {text}" if name else text, markup=False, soft_wrap=True)


def show(renderable: Any) -> None:
    """Prints a table or another of rich's renderables."""
    if not _name.get():
        console.print(renderable)


def percent(share: float) -> str:
    """Returns a share of one as "12.34 %"."""
    return f"{100 * share:.2f} %"


def clock_time(seconds: float) -> str:
    """Returns seconds as "1:02:03"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


@contextlib.contextmanager
def working(
    title: str, total: int | None = None, interval: float = 30.0
) -> Iterator[Callable[[int], None]]:
    """Within, shows that something is under way, for how long and, given a total, how far it is.

    Yields a function that is told what has been done since. On a terminal there is a bar, which
    goes when it is done; else a line every `interval` seconds. What is done sooner says nothing.
    """
    live = console.is_terminal and not _name.get()
    columns = [TextColumn("{task.description}"), TimeElapsedColumn()]
    if total is not None:
        columns[1:1] = [BarColumn(), MofNCompleteColumn()]
    bar = Progress(*columns, console=console, disable=not live, transient=True)
    task = bar.add_task(title, total=total)
    began = shown = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        bar.advance(task, count)
        now = time.monotonic()
        if not live and now - shown >= interval:
            shown = now
            of = "" if total is None else f" of {total:,}"
            say(f"{title}: {done:,}{of} after {clock_time(now - began)}")

    with bar:
        yield advance
    if not live and time.monotonic() - began >= interval:
        say(f"{title}: done after {clock_time(time.monotonic() - began)}")


class _TimeColumn(ProgressColumn):
    """The time that is left; before there is an estimate, the time that has gone by."""

    def render(self, task: Task) -> str:
        if task.time_remaining is None or task.finished:
            return clock_time(task.elapsed or 0)
        return f"{clock_time(task.time_remaining)} left"


class TrainingProgress:
    """Shows how far training is: a bar on a terminal, else a line every `interval` seconds.

    It never waits for the device: `due` says when a new figure is worth fetching.
    """

    def __init__(self, total_steps: int, total_epochs: int, interval: float = 30.0):
        self._total_epochs = total_epochs
        self._live = console.is_terminal and not _name.get()
        self._interval = 0.5 if self._live else interval
        self._shown = self._started = time.monotonic()
        self._first: int | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            _TimeColumn(),
            console=console,
            # Several runs of a sweep may be under way; there can be one bar.
            disable=not self._live,
            expand=True,
        )
        self._task = self._bar.add_task("starting", total=total_steps, figures="compiling")
        self._total_steps = total_steps

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def due(self) -> bool:
        """Whether it is time for `update`."""
        return time.monotonic() - self._shown >= self._interval

    def update(self, step: int, epoch: int, values: Mapping[str, float], rate: float) -> None:
        """Shows the step, the epoch's running means and the images/s."""
        now = time.monotonic()
        figures = (
            f"loss {values['loss']:.3f}  accuracy {percent(values['accuracy'])}  {rate:,.0f} img/s"
        )
        title = f"epoch {epoch}/{self._total_epochs}"
        self._bar.update(self._task, completed=step, description=title, figures=figures)
        if not self._live:
            left = ""
            if self._first is not None and step > self._first:
                pace = (now - self._started) / (step - self._first)
                left = f"  {clock_time(pace * (self._total_steps - step))} left"
            say(f"{title}  step {step}/{self._total_steps}  {figures}{left}")
        if self._first is None:
            self._first, self._started = step, now
        self._shown = now

    def epoch(self, row: Mapping[str, Any], rate: float, seconds: float, best: bool) -> None:
        """Prints one finished epoch."""
        self._bar.update(self._task, completed=row["step"])
        parts = [
            f"epoch {row['epoch']}/{self._total_epochs}",
            f"train loss {row['train_loss']:.4f} accuracy {percent(row['train_accuracy'])}",
        ]
        if "validation_loss" in row:
            parts.append(
                f"validation loss {row['validation_loss']:.4f} "
                f"accuracy {percent(row['validation_accuracy'])}" + (" *" if best else "")
            )
        parts += [f"lr {row['learning_rate']:.3g}", f"{rate:,.0f} img/s", clock_time(seconds)]
        say("  ".join(parts))


def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Returns a table; all columns but the first are aligned to the right."""
    result = Table(title=title, title_justify="left")
    for place, heading in enumerate(headings):
        result.add_column(heading, justify="right" if place else "left")
    for row in rows:
        result.add_row(*row)
    return result


def results_table(title: str, results: Mapping[str, Mapping[str, float] | None]) -> Table:
    """Returns a table with a row for each evaluated split; splits without a result are left out."""
    table = Table(title=title, title_justify="left")
    coarse = any("coarse_accuracy" in (values or {}) for values in results.values())
    headings: Sequence[str] = ("split", "examples", "accuracy", "top-5 accuracy", "loss")
    for heading in (*headings, *(("superclass accuracy",) if coarse else ())):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for split, values in results.items():
        if values is None:
            continue
        cells = [
            split,
            f"{values['examples']:,}",
            percent(values["accuracy"]),
            percent(values["top5_accuracy"]),
            f"{values['loss']:.4f}",
        ]
        table.add_row(*cells, *([percent(values["coarse_accuracy"])] if coarse else []))
    return table


def plan_table(rows: Sequence[tuple[str, str]]) -> Table:
    """Returns a table of names and words."""
    table = Table(title="Plan", title_justify="left", show_header=False)
    for row in rows:
        table.add_row(*row)
    return table


def sweep_table(rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None) -> Table:
    """Returns the accuracies of every setting as mean, deviation and 95 % confidence interval."""
    table = Table(title="accuracy: mean ± deviation [95 % interval] over seeds")
    table.title_justify = "left"
    columns = [
        key
        for key in ("validation_accuracy", "test_accuracy", "test_augmented_accuracy")
        if any(key in row for row in rows)
    ]
    for heading in ("setting", "seeds", *(key.replace("_", " ") for key in columns), "seconds"):
        table.add_column(heading, justify="left" if heading == "setting" else "right")
    for row in rows:
        failed = f", {len(row['failed'])} failed" if row["failed"] else ""
        seconds = row["seconds"]
        table.add_row(
            (row["setting"] or "-") + (" (best)" if row is best else ""),
            f"{len(row['seeds'])}{failed}",
            *(_spread(row[key]) if key in row else "" for key in columns),
            f"{sum(seconds) / len(seconds):,.0f}" if seconds else "",
        )
    return table


def _spread(found: Mapping[str, Any]) -> str:
    mean = percent(found["mean"])
    if found["deviation"] is None:
        return mean
    low, high = found["interval"]
    return f"{mean} ± {100 * found['deviation']:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
