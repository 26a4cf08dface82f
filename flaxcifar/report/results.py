"""Headline results and curves of a run, as both pages show them."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from flaxcifar.console import clock_time, percent
from flaxcifar.report.run_files import RunFiles


class Result(NamedTuple):
    """A named figure: its text, and the number that a table sorts it by."""

    name: str
    text: str
    value: float


def share(name: str, value: float) -> Result:
    """Returns a share of one as a percentage."""
    return Result(name, percent(value), value)


def headline(run: RunFiles) -> list[Result]:
    """Returns the results of a run: on the test split, or on validation before the run ends."""
    return list(_progress(run) if run.summary is None else _final(run.summary))


def _progress(run: RunFiles) -> Iterator[Result]:
    last = run.history[-1] if run.history else {}
    yield Result("Epochs so far", str(last.get("epoch", 0)), last.get("epoch", 0))
    if "validation_accuracy" in last:
        loss = last["validation_loss"]
        yield share("Validation accuracy", last["validation_accuracy"])
        yield Result("Validation loss", f"{loss:.4f}", loss)
    if run.timing:
        seconds = run.timing[-1]["seconds"]
        yield Result("Wall time", clock_time(seconds), seconds)


def _final(summary: dict[str, Any]) -> Iterator[Result]:
    test, augmented, timing = summary["test"], summary["test_augmented"], summary["timing"]
    yield share("Test accuracy", test["accuracy"])
    if augmented:
        yield share("Test accuracy, TTA", augmented["accuracy"])
    yield share("Top-5 accuracy", test["top5_accuracy"])
    if "coarse_accuracy" in test:
        yield share("Superclass accuracy", test["coarse_accuracy"])
    seconds, rate = timing["total_seconds"], timing["images_per_second"]
    parameters = summary["parameters"]["trained"] + summary["parameters"]["frozen"]
    yield Result("Test loss", f"{test['loss']:.4f}", test["loss"])
    yield Result("Epochs", f"{summary['epochs']:.4g}", summary["epochs"])
    yield Result("Wall time", clock_time(seconds), seconds)
    yield Result("Images per second", f"{rate:,.0f}", rate)
    yield Result("Parameters", f"{parameters:,}", parameters)


def curves(run: RunFiles) -> dict[str, Any]:
    """Returns the name of a run and its rows by epoch, with the rates of timing.jsonl.

    JSON has no word for numbers that are not finite, such as a diverged loss: they become None.
    """
    rates = {row["step"]: row["images_per_second"] for row in run.timing}
    rows = [row | {"images_per_second": rates.get(row["step"])} for row in run.history]

    def finite(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    return {
        "name": run.name,
        "rows": [{key: finite(value) for key, value in row.items()} for row in rows],
    }
