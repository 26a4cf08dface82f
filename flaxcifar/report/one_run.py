"""The report of one run: HTML from what was collected; `report.js` draws what moves."""

import numpy as np

from flaxcifar.config.changes import flatten
from flaxcifar.console import clock_time, percent
from flaxcifar.inference.analysis import Details
from flaxcifar.report import predicted
from flaxcifar.report.markup import Code, Measure, figures, folded, picture, table
from flaxcifar.report.page import curves, headline, page, rows
from flaxcifar.report.run_files import RunFiles


def of_run(run: RunFiles, details: Details) -> str:
    """Returns the report of one run."""
    results, sections = headline(run), {"Curves": curves()}
    if not run.history:  # weights from elsewhere
        share = np.trace(details.matrix) / details.matrix.sum()
        results = [(f"{details.split.capitalize()} accuracy", Measure(percent(share), share))]
        sections = {}
    sections |= {
        "Confusion": predicted.confusion(details),
        "Accuracy by class": predicted.classes(details),
        "Calibration": predicted.calibration(details),
        "The surest mistakes": predicted.gallery(details.mistakes, "mistakes"),
        f"Any {details.split} images": predicted.gallery(details.random, "random"),
        "What the network sees": _pictures(details),
        "Model": _model(details),
        "Config": _config(run),
        "Where it ran": _circumstances(run),
    }
    data = {"runs": [rows(run)], **predicted.drawn(details)}
    model = run.config["model"]["name"]
    title = f"{model} on {details.dataset.name}"
    return page(title, _subtitle(run, details), figures(results), sections, data)


def _subtitle(run: RunFiles, details: Details) -> str:
    found = f"{run.name}{', not finished' if run.under_way else ''}. "
    if run.history:
        found += "Curves show the whole run"
        if run.summary and run.summary["evaluated_step"] != details.step:
            # `early_stopping.restore_best` is off.
            found += f", the figures here step {run.summary['evaluated_step']:,}"
        found += "; all else is"
    else:
        found += "All is"
    return f"{found} of the best checkpoint, step {details.step:,}."


def _pictures(details: Details) -> str:
    found = (
        "<h3>Training images, as they are and as the first four epochs see them</h3>\n"
        + picture(details.augmented, "Augmented training images")
    )
    if details.filters is not None:
        found += (
            "\n<h3>Filters of the first layer</h3>\n<p class='note'>Each stretched to the full "
            "range of colours.</p>\n"
        ) + picture(details.filters, "Filters")
    return found


def _model(details: Details) -> str:
    found = [
        (
            layer.path,
            _unbroken(layer.kind),
            _unbroken(" x ".join(map(str, layer.shape))),
            Measure(f"{layer.parameters:,}" if layer.parameters else "", layer.parameters),
            Measure(f"{layer.flops / 1e6:,.2f}" if layer.flops else "", layer.flops),
            state,
        )
        for layer, state in details.layers
    ]
    totals = details.totals
    return (
        f"<p>{totals['trained']:,} parameters trained, {totals['frozen']:,} frozen, and "
        f"{totals['statistics']:,} statistics; {totals['flops_per_image'] / 1e6:,.1f} MFLOPs for "
        "an image forward.</p>\n"
        + table(("layer", "kind", "output", "parameters", "MFLOPs", ""), found)
    )


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _config(run: RunFiles) -> str:
    changed = run.changed()
    own = [
        (Code(key), Code(value), Code(default))
        for key, (default, value) in changed.items()
        if value is not None
    ]
    everything = flatten(run.config)
    marked = [n for n, key in enumerate(everything) if key in changed]
    cells = [(Code(key), Code(value)) for key, value in everything.items()]
    return (
        "<h3>What differs from the defaults</h3>\n"
        + table(("key", "value", "default"), own)
        + folded("All of it", table(("key", "value"), cells, marked=marked))
    )


def _circumstances(run: RunFiles) -> str:
    if run.summary is None:
        return "<p>Not known: no run has ended in this workdir.</p>"
    summary = run.summary
    devices, timing = summary["devices"], summary["timing"]
    found = [
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
    return table(("", ""), [(name, Code(value)) for name, value in found])
