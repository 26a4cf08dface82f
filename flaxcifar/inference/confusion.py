"""Confusion matrix and calibration of a classifier."""

import dataclasses

import numpy as np


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts examples by label (row) and prediction (column), int64 [classes, classes]."""
    counts = np.bincount(labels * classes + predictions, minlength=classes * classes)
    return counts.reshape(classes, classes)


def most_confused(matrix: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """Returns (label, prediction, examples) of the most frequent mistakes, in this order."""
    mistakes = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:count]
    found = [(*divmod(int(n), len(matrix)), int(mistakes.flat[n])) for n in order]
    return [pair for pair in found if pair[2]]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Reliability of probabilities: examples in bins of equal width by confidence.

    The confidence of an example is the probability of its predicted class.

    Attributes:
      counts: int64 [bins].
      confidence: mean confidence of each bin, float64 [bins]; 0 in empty bins.
      accuracy: fraction of correct predictions in each bin, float64 [bins]; 0 in empty bins.
      error: expected calibration error: the difference between confidence and accuracy of a bin,
        averaged over examples (Guo et al., 2017).
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Calibration:
    """Computes the calibration of probabilities, float [N, classes], for labels, int [N].

    A bin excludes its lower edge and includes its upper edge.
    """
    confidence = np.max(probabilities, axis=1).astype(np.float64)
    correct = np.argmax(probabilities, axis=1) == labels
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(number, minlength=bins)
    filled = np.maximum(counts, 1)
    mean = np.bincount(number, confidence, minlength=bins) / filled
    accuracy = np.bincount(number, correct, minlength=bins) / filled
    error = float(np.sum(counts * np.abs(accuracy - mean)) / max(len(labels), 1))
    return Calibration(counts, mean, accuracy, error)
