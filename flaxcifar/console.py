"""Console output: lines, tables and progress bars; without a terminal, plain lines."""

import contextlib
import contextvars
import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

# In a notebook rich draws bars with ipywidgets. Without them it shows plain lines there.
_in_notebook = None if importlib.util.find_spec("ipywidgets") else False
console = Console(highlight=False, force_jupyter=_in_notebook)
if not console.is_terminal:
    # A file or a pipe has no width, and rich would wrap the tables at 80 columns.
    console.width = 120

# The run of a sweep that this thread trains.
_name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="")


def _is_live() -> bool:
    """Whether bars can be drawn: on a terminal or in a notebook, and not by one of several runs."""
    return (console.is_terminal or console.is_jupyter) and not _name.get()


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Context manager: prefixes lines with the name of a run; hides its tables and bars."""
    token = _name.set(name)
    try:
        yield
    finally:
        _name.reset(token)


def say(text: str) -> None:
    """Prints one line verbatim, without wrapping it."""
    name = _name.get()
    console.print(f"{name}: {text}" if name else text, markup=False, soft_wrap=True)


def show(renderable: Any) -> None:
    """Prints a table or another renderable of rich."""
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
    """Context manager: shows the progress of a task.

    A terminal shows a bar until the task is done. Elsewhere a line is printed every `interval`
    seconds, and nothing for a shorter task.

    Args:
      title: what is being done.
      total: number of items, if known.
      interval: seconds between two lines.

    Yields:
      A function to call with the number of items done since its last call.
    """
    live = _is_live()
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
    """The remaining time, or the elapsed time until the remaining time can be estimated."""

    def render(self, task: Task) -> str:
        if task.time_remaining is None or task.finished:
            return clock_time(task.elapsed or 0)
        return f"{clock_time(task.time_remaining)} left"


class TrainingProgress:
    """Shows the progress of training: a bar on a terminal, else a line every `interval` seconds.

    It never waits for the device. The caller fetches new metrics only if `due` is true.
    """

    def __init__(self, total_steps: int, total_epochs: int, interval: float = 30.0):
        self._total_epochs = total_epochs
        self._live = _is_live()
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
            # The runs of a sweep may train at once, and rich allows one bar.
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
        """Returns whether it is time to call `update`."""
        return time.monotonic() - self._shown >= self._interval

    def update(self, step: int, epoch: int, values: Mapping[str, float], rate: float) -> None:
        """Shows the step, the means of the epoch so far and the rate in images/s."""
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
        """Prints a line for a finished epoch, marked with * if `best`."""
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


def table(
    title: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    justify: str = "",
    footers: Sequence[str] = (),
) -> Table:
    """Returns a table for `show`.

    Args:
      title: stands above the table.
      headings: one per column; if all are empty the table has no header.
      rows: cells as strings.
      justify: "l" or "r" per column. By default all columns but the first are right-aligned.
      footers: one per column; by default the table has no footer.
    """
    result = Table(
        title=title,
        title_justify="left",
        show_header=any(headings),
        show_footer=bool(footers),
    )
    for n, heading in enumerate(headings):
        side = justify[n] if justify else "l" if n == 0 else "r"
        footer = footers[n] if footers else ""
        result.add_column(heading, footer, justify="left" if side == "l" else "right")
    for row in rows:
        result.add_row(*row)
    return result
