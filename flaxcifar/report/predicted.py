"""What the network makes of images: confusion, accuracy by class, calibration, galleries."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from flaxcifar.console import percent
from flaxcifar.inference.analysis import Details, Gallery, sheet
from flaxcifar.report.markup import Measure, Share, folded, png, table


def drawn(details: Details) -> dict[str, Any]:
    """Returns what `report.js` draws."""
    found = details.calibration
    return {
        "confusion": {
            "matrix": details.matrix.tolist(),
            "names": details.dataset.class_names,
            "superclasses": _superclasses(details),
            "order": _orders(details),
        },
        "calibration": {
            "counts": found.counts.tolist(),
            "confidence": found.confidence.tolist(),
            "accuracy": found.accuracy.tolist(),
        },
    }


def _superclasses(details: Details) -> list[str] | None:
    of = details.dataset.superclass_of
    return None if of is None else [details.dataset.superclass_names[n] for n in of]


def _accuracy(details: Details) -> np.ndarray:
    return np.diag(details.matrix) / np.maximum(details.matrix.sum(axis=1), 1)


def _orders(details: Details) -> dict[str, list[int]]:
    orders = {
        "label": list(range(len(details.matrix))),
        "accuracy": np.argsort(_accuracy(details), kind="stable").tolist(),
    }
    if details.dataset.superclass_of is not None:
        orders["superclass"] = np.argsort(details.dataset.superclass_of, kind="stable").tolist()
    return orders


def confusion(details: Details) -> str:
    """Returns the place of the confusion matrix, and the commonest mistakes."""
    orders = ["label", "accuracy"]
    if details.dataset.superclass_of is not None:
        orders.append("superclass")
    options = "".join(f'<option value="{order}">{order}</option>' for order in orders)
    names, totals = details.dataset.class_names, details.matrix.sum(axis=1)
    pairs = table(
        ("label", "taken for", "images", "of"),
        [(names[a], names[b], count, int(totals[a])) for a, b, count in details.confused],
    )
    return (
        '<p class="note">A row for each label, a column for each prediction; the stronger '
        "its colour, the larger the share of the row. Point at a square to read it.</p>\n"
        f'<p class="controls"><label>Sorted by <select id="confusion-order">{options}</select>'
        '</label> <button type="button" id="confusion-zoom" hidden>Larger</button></p>\n'
        '<div class="scroll"><canvas id="confusion-matrix" role="img" '
        'aria-label="Confusion matrix"></canvas></div>\n'
        '<div class="readout" id="confusion-readout"></div>\n'
        f"<h3>Most confused</h3>\n{pairs}"
    )


def classes(details: Details) -> str:
    """Returns the accuracy of every class and superclass."""
    names, totals = details.dataset.class_names, details.matrix.sum(axis=1)
    groups, accuracy = _superclasses(details), _accuracy(details)
    found = [
        (
            names[n],
            *([groups[n]] if groups else []),
            int(totals[n]),
            Share(accuracy[n]),
            _taken_for(details.matrix[n], n, names),
        )
        for n in range(len(names))
    ]
    headings = ("class", *(["superclass"] if groups else []), "images", "accuracy", "taken for")
    by_class = table(headings, found, sortable=True)
    if groups is None:
        return by_class
    of = details.dataset.superclass_of
    count = len(details.dataset.superclass_names)
    inside = np.zeros((count, count), np.int64)
    np.add.at(inside, (of[:, None], of[None, :]), details.matrix)
    right = np.bincount(of, np.diag(details.matrix), count)
    total = inside.sum(axis=1)
    coarse = [
        (
            name,
            int(total[n]),
            Share(right[n] / max(total[n], 1)),
            Share(inside[n, n] / max(total[n], 1)),
        )
        for n, name in enumerate(details.dataset.superclass_names)
    ]
    headings = ("superclass", "images", "class right", "superclass right")
    return f"<h3>Superclasses</h3>\n{table(headings, coarse, sortable=True)}\n" + folded(
        f"{len(names)} classes", by_class
    )


def _taken_for(row: np.ndarray, label: int, names: Sequence[str], most: int = 2) -> str:
    """Returns the commonest wrong predictions of a class."""
    wrong = np.where(np.arange(len(row)) == label, 0, row)
    order = np.argsort(-wrong, kind="stable")[:most]
    return ", ".join(f"{names[n]} ({wrong[n]})" for n in order if wrong[n])


def calibration(details: Details) -> str:
    """Returns the calibration error and the place of its diagram."""
    found = details.calibration
    bins = len(found.counts)
    numbers = table(
        ("confidence", "images", "mean confidence", "accuracy"),
        [
            (
                f"{100 * n / bins:.0f} to {100 * (n + 1) / bins:.0f} %",
                int(found.counts[n]),
                Measure(percent(found.confidence[n]), found.confidence[n]),
                Measure(percent(found.accuracy[n]), found.accuracy[n]),
            )
            for n in range(bins)
            if found.counts[n]
        ],
    )
    return (
        f"<p>Expected calibration error: <strong>{percent(found.error)}</strong>, the mean over "
        f"all {details.split} images of the distance between confidence and accuracy in {bins} "
        "bins of equal width; confidence is the probability of the predicted class. Bars below "
        "the dashed line: the network is surer than it should be.</p>\n"
        '<figure id="reliability"><figcaption>Accuracy by confidence</figcaption></figure>\n'
        + folded("As numbers", numbers)
    )


def gallery(found: Gallery, name: str) -> str:
    """Returns pictures and what was made of them; each shows its part of one sheet."""
    count = len(found.tiles)
    if not count:
        return "<p>None.</p>"
    items = []
    for n, tile in enumerate(found.tiles):
        place = 100 * n / max(count - 1, 1)
        verdict = "right" if tile.right else "wrong"
        # Not broken before the percent sign.
        words = escape(f"{tile.prediction}, {percent(tile.probability)}").replace(" %", "&nbsp;%")
        truth = "" if tile.right else f"<br>is {escape(tile.label)}"
        items.append(
            f'<li><span class="picture {name}" style="background-position: {place:.4f}% 0"></span>'
            f'<span class="{verdict}">{words}</span>{truth}</li>'
        )
    pictures = sheet(found.images, count)
    style = f".{name} {{ background: url({png(pictures)}) 0 0 / {100 * count}% 100%; }}"
    return f'<style>{style}</style>\n<ul class="gallery">{"".join(items)}</ul>'
