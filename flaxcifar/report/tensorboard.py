"""What TensorBoard shows of a run beside its curves: pictures, confusion, hyper-parameters."""

import contextlib

import numpy as np

from flaxcifar.config.changes import flatten
from flaxcifar.inference.analysis import Details, sheet
from flaxcifar.report.run_files import RunFiles
from flaxcifar.workdir.files import Logbook

_COLUMNS = 8  # of pictures
_PIXELS = 800  # of the confusion matrix, about


def write(run: RunFiles, details: Details) -> None:
    """Writes the event file of a run that has ended anew; what comes on top is at its last step."""
    settings = {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in flatten(run.config).items()
    }
    results = {f"final/{name}": value for name, value in run.summary["test"].items()}
    with contextlib.closing(Logbook(run.workdir, run.history)) as logbook:
        logbook.conclude(run.summary["steps"], results, settings, pictures_of(details))


def pictures_of(details: Details) -> dict[str, np.ndarray]:
    """Returns pictures, uint8 [H, W, 3], by tag."""
    pictures = {"train/augmented": details.augmented, "test/confusion": heat(details.matrix)}
    for name, gallery in (("mistakes", details.mistakes), ("any", details.random)):
        if len(gallery.images):
            pictures[f"test/{name}"] = sheet(gallery.images, _COLUMNS)
    if details.filters is not None:
        pictures["filters"] = details.filters
    return pictures


def heat(matrix: np.ndarray) -> np.ndarray:
    """Returns a confusion matrix as a picture, uint8 [H, W, 3]: dark where the share is large."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shade = np.round(255 * (1 - np.sqrt(share))).astype(np.uint8)
    cell = max(1, _PIXELS // len(matrix))
    return np.repeat(shade.repeat(cell, 0).repeat(cell, 1)[..., None], 3, axis=2)
