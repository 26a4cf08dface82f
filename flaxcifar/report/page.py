"""The pages as text: HTML from what was collected; `report.js` draws what moves."""

import base64
import io
import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from flaxcifar.console import clock_time, percent
from flaxcifar.report.details import Details, Gallery, sheet
from flaxcifar.report.files import RunFiles

# Figure's title, keys of the rows, unit.
_CURVES = (
    ("Loss", "train_loss validation_loss", ""),
    ("Accuracy", "train_accuracy validation_accuracy", "percent"),
    ("Learning rate", "learning_rate", ""),
    ("Images a second", "images_per_second", ""),
)


def of_run(run: RunFiles, details: Details) -> str:
    """Returns the report of one run."""
    names, superclass_of = details.dataset.class_names, details.dataset.superclass_of
    accuracy = np.diag(details.matrix) / np.maximum(details.matrix.sum(axis=1), 1)
    sections = [
        _figures(_headline(run)),
        _section("Curves", _curves()),
        _section("Confusion", _confusion(details)),
        _section("Accuracy by class", _classes(details, accuracy)),
        _section("Calibration", _calibration(details)),
        _section("The surest mistakes", _gallery(details.mistakes, "mistakes")),
        _section("Any test images", _gallery(details.random, "random")),
        _section("What the network sees", _pictures(details)),
        _section("Model", _model(details)),
        _section("Config", _config(run)),
        _section("Where it ran", _circumstances(run)),
    ]
    data = {
        "runs": [_rows(run)],
        "confusion": {
            "matrix": details.matrix.tolist(),
            "names": names,
            "superclasses": _superclasses(details),
            "order": _orders(accuracy, superclass_of),
        },
        "calibration": {
            "counts": details.calibration.counts.tolist(),
            "confidence": details.calibration.confidence.tolist(),
            "accuracy": details.calibration.accuracy.tolist(),
        },
    }
    model = run.config["model"]["name"]
    state = "" if run.summary else ", not finished"
    step = f"the best checkpoint, of step {details.step:,}"
    subtitle = f"{run.name}{state}. Curves are of the whole run, details of {step}."
    return _page(f"{model} on {details.dataset.name}", subtitle, sections, data)


def of_comparison(runs: Sequence[RunFiles]) -> str:
    """Returns a page with the curves, results and config differences of several runs."""
    sections = [
        _section("Results", _results(runs)),
        _section("Curves", _curves()),
        _section("What differs", _differences(runs)),
    ]
    names = ", ".join(run.name for run in runs)
    return _page(f"{len(runs)} runs", names, sections, {"runs": [_rows(run) for run in runs]})


def _page(title: str, subtitle: str, sections: Iterable[str], data: dict[str, Any]) -> str:
    files = resources.files("flaxcifar.report")
    # A class may be called </script>; within JSON \u003c says the same.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return Template((files / "page.html").read_text("utf-8")).substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        style=(files / "style.css").read_text("utf-8"),
        script=(files / "report.js").read_text("utf-8"),
        body="\n".join(sections),
        data=text,
    )


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def _figures(pairs: Iterable[tuple[str, str]]) -> str:
    boxes = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="figures">{"".join(boxes)}</dl>'


def _headline(run: RunFiles) -> list[tuple[str, str]]:
    summary, found = run.summary, []
    if summary is None:
        last = run.history[-1] if run.history else {}
        found = [("Epochs so far", str(last.get("epoch", 0)))]
        if "validation_accuracy" in last:
            found.append(("Validation accuracy", percent(last["validation_accuracy"])))
        return found
    test, views = summary["test"], summary["test_augmented"]
    found = [("Test accuracy", percent(test["accuracy"]))]
    if views:
        found.append(("Test, several views", percent(views["accuracy"])))
    found.append(("Top-5 accuracy", percent(test["top5_accuracy"])))
    if "coarse_accuracy" in test:
        found.append(("Superclass accuracy", percent(test["coarse_accuracy"])))
    timing, parameters = summary["timing"], summary["parameters"]
    return [
        *found,
        ("Test loss", f"{test['loss']:.4f}"),
        ("Epochs", f"{summary['epochs']:.4g}"),
        ("Wall time", clock_time(timing["total_seconds"])),
        ("Images a second", f"{timing['images_per_second']:,.0f}"),
        ("Parameters", f"{parameters['trained'] + parameters['frozen']:,}"),
    ]


def _rows(run: RunFiles) -> dict[str, Any]:
    """Returns the rows by epoch, the rates of timing.jsonl among them."""
    rates = {row["step"]: row["images_per_second"] for row in run.timing}
    rows = [row | {"images_per_second": rates.get(row["step"])} for row in run.history]
    return {"name": run.name, "rows": rows}


def _curves() -> str:
    figures = (
        f'<figure data-curve="{keys}" data-unit="{unit}"><figcaption>{title}</figcaption></figure>'
        for title, keys, unit in _CURVES
    )
    return f'<div class="charts">{"".join(figures)}</div>'


def _superclasses(details: Details) -> list[str] | None:
    of = details.dataset.superclass_of
    return None if of is None else [details.dataset.superclass_names[n] for n in of]


def _orders(accuracy: np.ndarray, superclass_of: np.ndarray | None) -> dict[str, list[int]]:
    orders = {
        "label": list(range(len(accuracy))),
        "accuracy": np.argsort(accuracy, kind="stable").tolist(),
    }
    if superclass_of is not None:
        orders["superclass"] = np.argsort(superclass_of, kind="stable").tolist()
    return orders


def _confusion(details: Details) -> str:
    options = '<option value="label">label</option><option value="accuracy">accuracy</option>'
    if details.dataset.superclass_of is not None:
        options += '<option value="superclass">superclass</option>'
    names = details.dataset.class_names
    totals = details.matrix.sum(axis=1)
    pairs = _table(
        ("label", "taken for", "images", "of"),
        [(names[a], names[b], count, int(totals[a])) for a, b, count in details.confused],
    )
    return (
        '<p class="note">A row for each label, a column for each prediction; the darker, the '
        "larger the share of the row. Point at a square to read it.</p>\n"
        f'<p><label>Sorted by <select id="confusion-order">{options}</select></label></p>\n'
        '<canvas id="confusion" role="img" aria-label="Confusion matrix"></canvas>\n'
        '<div class="readout" id="confusion-readout"></div>\n'
        f"<h3>Most confused</h3>\n{pairs}"
    )


def _classes(details: Details, accuracy: np.ndarray) -> str:
    names, totals = details.dataset.class_names, details.matrix.sum(axis=1)
    groups = _superclasses(details)
    rows = [
        (names[n], *([groups[n]] if groups else []), int(totals[n]), _Share(accuracy[n]))
        for n in range(len(names))
    ]
    headings = ("class", *(["superclass"] if groups else []), "images", "accuracy", "")
    table = _table(headings, rows, sortable=True)
    if groups is None:
        return table
    of = details.dataset.superclass_of
    count = len(details.dataset.superclass_names)
    inside = np.zeros((count, count), np.int64)
    np.add.at(inside, (of[:, None], of[None, :]), details.matrix)
    right = np.bincount(of, np.diag(details.matrix), count)
    coarse = [
        (
            name,
            int(inside[n].sum()),
            percent(right[n] / max(inside[n].sum(), 1)),
            _Share(inside[n, n] / max(inside[n].sum(), 1)),
        )
        for n, name in enumerate(details.dataset.superclass_names)
    ]
    headings = ("superclass", "images", "class right", "superclass right", "")
    return (
        f"<h3>Superclasses</h3>\n{_table(headings, coarse, sortable=True)}\n"
        f"<details><summary>{len(names)} classes</summary>\n{table}\n</details>"
    )


def _calibration(details: Details) -> str:
    error = percent(details.calibration.error)
    return (
        f"<p>Expected calibration error: <strong>{error}</strong>, the mean over all test images "
        "of the distance between confidence and accuracy in "
        f"{len(details.calibration.counts)} bins of equal width. Bars below the dashed line: the "
        "network is surer than it should be.</p>\n"
        '<figure id="calibration" style="max-width: 30rem"><figcaption>Accuracy by confidence'
        "</figcaption></figure>"
    )


def _gallery(gallery: Gallery, name: str) -> str:
    """Returns a list of pictures; the sheet stands once, each picture shows its part of it."""
    count = len(gallery.tiles)
    if not count:
        return "<p>None.</p>"
    items = []
    for n, tile in enumerate(gallery.tiles):
        place = 100 * n / max(count - 1, 1)
        verdict = "right" if tile.right else "wrong"
        words = escape(f"{tile.prediction}, {percent(tile.probability)}")
        truth = "" if tile.right else f"<br>is {escape(tile.label)}"
        items.append(
            f'<li><span class="picture {name}" style="background-position: {place:.4f}% 0"></span>'
            f'<span class="{verdict}">{words}</span>{truth}</li>'
        )
    pictures = sheet(gallery.images, count)
    style = f".{name} {{ background: url({_png(pictures)}) 0 0 / {100 * count}% 100%; }}"
    return f'<style>{style}</style>\n<ul class="gallery">{"".join(items)}</ul>'


def _pictures(details: Details) -> str:
    found = (
        "<h3>Training images, as they are and as the first four epochs see them</h3>\n"
        f'<img class="pixels" src="{_png(details.augmented)}" alt="Augmented training images">'
    )
    if details.filters is not None:
        found += (
            "\n<h3>Filters of the first layer</h3>\n<p class='note'>Each stretched to the full "
            "range of colours.</p>\n"
            f'<img class="pixels" src="{_png(details.filters)}" alt="Filters">'
        )
    return found


def _png(pixels: np.ndarray) -> str:
    """Returns a picture, uint8 [H, W, 3], as the address of an image that holds it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _model(details: Details) -> str:
    rows = [
        (
            layer.path,
            layer.kind,
            " x ".join(map(str, layer.shape)),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{layer.flops / 1e6:,.2f}" if layer.flops else "",
            "frozen" if layer.frozen else "",
        )
        for layer in details.layers
    ]
    return _table(("layer", "kind", "output", "parameters", "MFLOPs", ""), rows)


def _config(run: RunFiles) -> str:
    changed = {key: pair for key, pair in run.changed().items() if pair[1] is not None}
    own = _table(
        ("key", "value", "default"),
        [(_Code(key), _Code(value), _Code(default)) for key, (default, value) in changed.items()],
    )
    text = escape(json.dumps(run.config, indent=1))
    return (
        f"<h3>What differs from the defaults</h3>\n{own}\n"
        f"<details><summary>All of it</summary><pre class='scroll'>{text}</pre></details>"
    )


def _circumstances(run: RunFiles) -> str:
    if run.summary is None:
        return "<p>The run has not ended.</p>"
    summary = run.summary
    devices = summary["devices"]
    timing = summary["timing"]
    rows = [
        ("devices", f"{len(devices)} x {devices[0]}"),
        ("convolutions", summary["convolution"]),
        ("commit", summary.get("commit") or "none found"),
        ("ended", f"{summary['stop_reason']}, after {summary['steps']:,} steps"),
        ("wall time", clock_time(timing["total_seconds"])),
        ("of it compilation", f"{timing['compile_seconds']:.1f} s"),
        ("training images", f"{summary['dataset']['train_examples']:,}"),
        ("fingerprint of the data", summary["dataset"]["fingerprint"]),
        ("versions", ", ".join(f"{name} {v}" for name, v in summary["versions"].items())),
        ("workdir", str(run.workdir)),
    ]
    return _table(("", ""), [(name, _Code(value)) for name, value in rows])


def _results(runs: Sequence[RunFiles]) -> str:
    columns = [dict(_headline(run)) for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [(name, *(column.get(name, "") for column in columns)) for name in names]
    return _table(("", *(run.name for run in runs)), rows)


def _differences(runs: Sequence[RunFiles]) -> str:
    changes = [run.changed() for run in runs]
    keys = sorted({key for found in changes for key in found})
    rows = []
    for key in keys:
        default = next(found[key][0] for found in changes if key in found)
        values = [found[key][1] if key in found else default for found in changes]
        if any(value != values[0] for value in values):
            rows.append((_Code(key), *map(_Code, values)))
    if not rows:
        return "<p>Nothing: the configs are the same.</p>"
    return _table(("key", *(run.name for run in runs)), rows)


class _Code(str):
    """A cell in a fixed-width font."""

    def __new__(cls, value: object) -> "_Code":
        return super().__new__(cls, value if isinstance(value, str) else json.dumps(value))


class _Share(float):
    """A cell with a percentage, and beside it one with a bar."""


def _table(headings: Sequence[str], rows: Iterable[Sequence[Any]], sortable: bool = False) -> str:
    """Returns an HTML table; numbers stand to the right."""

    def heading(text: str) -> str:
        words = escape(text)
        return f"<th>{f'<button>{words}</button>' if sortable and text else words}</th>"

    def cell(value: Any) -> str:
        if isinstance(value, _Share):
            bar = f'<td class="bar"><span style="width: {100 * value:.2f}%"></span></td>'
            return f'<td class="number" data-value="{value:.6f}">{percent(value)}</td>{bar}'
        if isinstance(value, _Code):
            return f"<td><code>{escape(value)}</code></td>"
        if isinstance(value, int):
            return f'<td class="number" data-value="{value}">{value:,}</td>'
        return f"<td>{escape(str(value))}</td>"

    head = "".join(map(heading, headings))
    body = "\n".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
