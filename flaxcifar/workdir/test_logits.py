"""Writes and reads the logits of the test split, from which reports are made."""

import io
from pathlib import Path

import numpy as np

from flaxcifar.atomic import write_bytes
from flaxcifar.workdir import names


def write_test_logits(workdir: Path, logits: np.ndarray) -> None:
    """Stores logits, float32 [N, classes], in the order of the test split."""
    buffer = io.BytesIO()
    np.save(buffer, logits)
    write_bytes(workdir / names.TEST_LOGITS, buffer.getvalue())


def read_test_logits(workdir: Path) -> np.ndarray | None:
    """Returns the logits of a finished run, float32 [N, classes].

    Returns None if the file is missing, as in runs of version 0.1, or unreadable.
    """
    try:
        return np.load(workdir / names.TEST_LOGITS, allow_pickle=False)
    except (OSError, ValueError):
        return None
