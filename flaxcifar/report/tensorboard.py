"""Adds the pictures, config and final results of a run to its TensorBoard events."""

import numpy as np

from flaxcifar.config.changes import flatten
from flaxcifar.inference.analysis import Details
from flaxcifar.inference.pictures import sheet
from flaxcifar.report.run_files import RunFiles
from flaxcifar.workdir import names
from flaxcifar.workdir.tensorboard import write_results

_COLUMNS = 8  # images per row of a gallery
_PIXELS = 800  # approximate side of the confusion matrix


def write(run: RunFiles, details: Details) -> None:
    """Adds the results of a finished run to TensorBoard, at its last step."""
    settings = {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in flatten(run.config).items()
    }
    assert run.summary is not None, "the run has ended"
    results = {f"final/{name}": value for name, value in run.summary["test"].items()}
    folder = run.workdir / names.TENSORBOARD
    write_results(folder, run.summary["steps"], results, settings, _pictures(details))


def _pictures(details: Details) -> dict[str, np.ndarray]:
    """Returns pictures, uint8 [H, W, 3 or 4], by tag."""
    pictures = {"train/augmented": details.augmented, "test/confusion": _heat_map(details.matrix)}
    for name, gallery in (("mistakes", details.mistakes), ("any", details.random)):
        if len(gallery.images):
            pictures[f"test/{name}"] = sheet(gallery.images, _COLUMNS)
    if details.filters is not None:
        pictures["filters"] = details.filters
    return pictures


def _heat_map(matrix: np.ndarray) -> np.ndarray:
    """Returns a confusion matrix as a picture, uint8 [H, W, 3], dark for a large share of a row."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shade = np.round(255 * (1 - np.sqrt(share))).astype(np.uint8)
    cell = max(1, _PIXELS // len(matrix))
    return np.repeat(shade.repeat(cell, 0).repeat(cell, 1)[..., None], 3, axis=2)
