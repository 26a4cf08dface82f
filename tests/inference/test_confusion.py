"""Against scikit-learn, and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.calibration import calibration_curve

from flaxcifar.inference.confusion import calibration, confusion_matrix, most_confused


@given(st.integers(1, 200), st.integers(2, 12), st.integers(0, 999))
def test_the_matrix_is_scikit_learns(n, classes, seed):
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(0, classes, (2, n))
    expected = metrics.confusion_matrix(labels, predictions, labels=range(classes))
    np.testing.assert_array_equal(confusion_matrix(labels, predictions, classes), expected)


def test_the_commonest_mistakes_come_first():
    matrix = np.array([[5, 2, 0], [3, 9, 1], [0, 0, 7]])
    assert most_confused(matrix, 10) == [(1, 0, 3), (0, 1, 2), (1, 2, 1)]
    assert most_confused(matrix, 1) == [(1, 0, 3)]
    assert most_confused(np.diag([1, 2]), 5) == []


def test_calibration_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.05, 0.95]])
    found = calibration(probabilities, np.array([0, 1, 1, 1]), bins=2)
    np.testing.assert_array_equal(found.counts, [0, 4])
    np.testing.assert_allclose(found.confidence, [0, 0.7875])
    np.testing.assert_allclose(found.accuracy, [0, 0.75])
    assert found.error == pytest.approx(0.0375)


@given(st.integers(1, 300), st.integers(0, 999))
def test_calibration_is_scikit_learns_curve(n, seed):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(3), n)
    labels = rng.integers(0, 3, n)
    found = calibration(probabilities, labels)
    correct = probabilities.argmax(1) == labels
    accuracy, confidence = calibration_curve(correct, probabilities.max(1), n_bins=15)
    filled = found.counts > 0
    np.testing.assert_allclose(found.accuracy[filled], accuracy)
    np.testing.assert_allclose(found.confidence[filled], confidence)
    assert found.counts.sum() == n
    gap = np.abs(accuracy - confidence)
    assert found.error == pytest.approx(np.average(gap, weights=found.counts[filled]))


def test_a_certain_and_right_network_is_calibrated():
    found = calibration(np.eye(4), np.arange(4))
    assert found.error == 0 and found.counts[-1] == 4
