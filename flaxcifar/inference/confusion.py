"""What a classifier confuses, and how far its probabilities can be trusted."""

import dataclasses

import numpy as np


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Returns int64 [classes, classes]: the examples of each label (row) by prediction (column)."""
    counts = np.bincount(labels * classes + predictions, minlength=classes * classes)
    return counts.reshape(classes, classes)


def most_confused(matrix: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """Returns (label, prediction, examples) of the commonest mistakes, the commonest first."""
    mistakes = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:count]
    found = [(*divmod(int(n), len(matrix)), int(mistakes.flat[n])) for n in order]
    return [pair for pair in found if pair[2]]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Examples by the probability of their predicted class, in bins of equal width.

    Attributes:
      counts: int64 [bins].
      confidence: the mean probability in each bin, float64 [bins]; 0 in empty ones.
      accuracy: the share of right predictions in each bin, float64 [bins]; 0 in empty ones.
      error: the expected calibration error: the mean over all examples of the distance between
        their bin's confidence and accuracy (Guo et al., 2017).
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Calibration:
    """Returns the calibration of probabilities, float [N, classes], against labels, int [N].

    A bin holds what is above its lower edge, up to and including its upper one.
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
