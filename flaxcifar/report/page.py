"""What all pages have: the frame, a run's results and its curves."""

import json
import math
from collections.abc import Iterable
from html import escape
from importlib import resources
from string import Template
from typing import Any

from flaxcifar.console import clock_time, percent
from flaxcifar.report.markup import Measure, section, slug
from flaxcifar.report.run_files import RunFiles

# Figure's title, keys of the rows, unit; a rate is drawn from zero.
_CURVES = (
    ("Loss", "train_loss validation_loss", ""),
    ("Accuracy", "train_accuracy validation_accuracy", "percent"),
    ("Learning rate", "learning_rate", ""),
    ("Images a second", "images_per_second", "rate"),
)


def page(
    title: str, subtitle: str, top: str, sections: dict[str, str], data: dict[str, Any]
) -> str:
    """Returns a whole page.

    Args:
      top: HTML that stands before the sections.
      sections: HTML by title.
      data: what `report.js` draws.
    """
    files = resources.files("flaxcifar.report")
    links = (f'<a href="#{slug(name)}">{escape(name)}</a>' for name in sections)
    # A class may be called </script>; within JSON \u003c says the same.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    whole = Template((files / "page.html").read_text("utf-8")).substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        style=(files / "style.css").read_text("utf-8"),
        script=(files / "report.js").read_text("utf-8"),
        top=top,
        links="\n".join(links),
        body="\n".join(section(name, content) for name, content in sections.items()),
        data=text,
    )
    # The name of a folder need not be valid text.
    return whole.encode("utf-8", "replace").decode()


def headline(run: RunFiles) -> list[tuple[str, Measure]]:
    """Returns the names and values of a run's results, as far as there are any."""
    return [(name, Measure(text, value)) for name, text, value in _results(run)]


def _results(run: RunFiles) -> Iterable[tuple[str, str, float]]:
    def share(name: str, value: float) -> tuple[str, str, float]:
        return name, percent(value), value

    if run.summary is None:
        last, seconds = run.history[-1] if run.history else {}, run.seconds()
        yield "Epochs so far", str(last.get("epoch", 0)), last.get("epoch", 0)
        if "validation_accuracy" in last:
            yield share("Validation accuracy", last["validation_accuracy"])
            yield "Validation loss", f"{last['validation_loss']:.4f}", last["validation_loss"]
        if seconds is not None:
            yield "Wall time", clock_time(seconds), seconds
        return
    test, views = run.summary["test"], run.summary["test_augmented"]
    yield share("Test accuracy", test["accuracy"])
    if views:
        yield share("Test, several views", views["accuracy"])
    yield share("Top-5 accuracy", test["top5_accuracy"])
    if "coarse_accuracy" in test:
        yield share("Superclass accuracy", test["coarse_accuracy"])
    timing, parameters = run.summary["timing"], run.summary["parameters"]
    rate, count = timing["images_per_second"], parameters["trained"] + parameters["frozen"]
    yield "Test loss", f"{test['loss']:.4f}", test["loss"]
    yield "Epochs", f"{run.summary['epochs']:.4g}", run.summary["epochs"]
    yield "Wall time", clock_time(timing["total_seconds"]), timing["total_seconds"]
    yield "Images a second", f"{rate:,.0f}", rate
    yield "Parameters", f"{count:,}", count


def rows(run: RunFiles) -> dict[str, Any]:
    """Returns a run's rows by epoch for `report.js`, the rates of timing.jsonl among them.

    A number that is not finite, as a validation loss may be, is None: JSON has no word for it.
    """
    rates = {row["step"]: row["images_per_second"] for row in run.timing}
    found = [row | {"images_per_second": rates.get(row["step"])} for row in run.history]

    def known(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    return {
        "name": run.name,
        "rows": [{key: known(value) for key, value in row.items()} for row in found],
    }


def curves() -> str:
    """Returns the places where `report.js` draws the curves of all runs."""
    found = (
        f'<figure data-curve="{keys}" data-unit="{unit}"><figcaption>{title}</figcaption></figure>'
        for title, keys, unit in _CURVES
    )
    return f'<div class="charts">{"".join(found)}</div>'
