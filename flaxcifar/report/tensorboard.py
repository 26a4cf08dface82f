"""What TensorBoard shows of a run beside its curves: pictures, confusion, hyper-parameters."""

import numpy as np
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from flaxcifar.ledger import flatten
from flaxcifar.report.details import Details, sheet
from flaxcifar.report.files import RunFiles

_COLUMNS = 8  # of pictures
_PIXELS = 800  # of the confusion matrix, about


def write(run: RunFiles, details: Details) -> None:
    """Adds to the run's event files, once, when it has ended; all of it at its last step."""
    step = run.summary["steps"]
    with SummaryWriter(str(run.workdir / "tensorboard")) as writer:
        for name, gallery in (("mistakes", details.mistakes), ("any", details.random)):
            if len(gallery.images):
                _add(writer, f"test/{name}", sheet(gallery.images, _COLUMNS), step)
        _add(writer, "train/augmented", details.augmented, step)
        if details.filters is not None:
            _add(writer, "filters", details.filters, step)
        _add(writer, "test/confusion", heat(details.matrix), step)
        values = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in flatten(run.config).items()
        }
        metrics = {f"final/{name}": value for name, value in run.summary["test"].items()}
        # Not add_hparams: it writes to another directory, and so to another run.
        for part in hparams(values, metrics):
            writer.file_writer.add_summary(part)
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)


def heat(matrix: np.ndarray) -> np.ndarray:
    """Returns a confusion matrix as a picture, uint8 [H, W, 3]: dark where the share is large."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shade = np.round(255 * (1 - np.sqrt(share))).astype(np.uint8)
    cell = max(1, _PIXELS // len(matrix))
    return np.repeat(shade.repeat(cell, 0).repeat(cell, 1)[..., None], 3, axis=2)


def _add(writer: SummaryWriter, name: str, picture: np.ndarray, step: int) -> None:
    writer.add_image(name, picture, step, dataformats="HWC")
