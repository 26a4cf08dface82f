import jax.numpy as jnp
import numpy as np
import pytest
import quick
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

from flaxcifar.training import metrics
from flaxcifar.training.metrics import Metrics, compute

cross_entropy = quick.jit(metrics.cross_entropy)
measure = quick.jit(metrics.measure)


def make(seed, count, classes):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, classes)).astype(np.float32)
    return logits, np.arange(count, dtype=np.int32) % classes


def softmax(logits):
    exp = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.sampled_from([(12, 6), (23, 9), (40, 12)]))
def test_against_scikit_learn(seed, shape):
    count, classes = shape
    logits, labels = make(seed, count, classes)
    losses = cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    values = compute(measure(jnp.asarray(logits), jnp.asarray(labels), 1.0, losses, None))
    every = np.arange(classes)
    assert values["examples"] == count
    assert values["accuracy"] == pytest.approx(accuracy_score(labels, logits.argmax(axis=1)))
    assert values["top5_accuracy"] == pytest.approx(
        top_k_accuracy_score(labels, logits, k=5, labels=every)
    )
    expected = log_loss(labels, softmax(logits), labels=every)
    assert values["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_masked_example_counts_nowhere_whatever_its_values():
    logits, labels = make(0, 8, 6)
    logits[6:] = np.nan
    mask = jnp.asarray([1.0] * 6 + [0.0] * 2)
    superclass_of = np.arange(6) // 2
    losses = cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    masked = compute(
        measure(jnp.asarray(logits), jnp.asarray(labels), mask, losses, superclass_of), coarse=True
    )
    short = compute(
        measure(jnp.asarray(logits[:6]), jnp.asarray(labels[:6]), 1.0, losses[:6], superclass_of),
        coarse=True,
    )
    assert masked == short and masked["examples"] == 6


def test_sums_add_up_over_unequal_batches():
    logits, labels = make(1, 30, 7)
    parts = [slice(0, 16), slice(16, 29), slice(29, 30)]
    total = Metrics.zero()
    for part in parts:
        x, y = jnp.asarray(logits[part]), jnp.asarray(labels[part])
        total = total + measure(x, y, 1.0, cross_entropy(x, y), None)
    x, y = jnp.asarray(logits), jnp.asarray(labels)
    whole = compute(measure(x, y, 1.0, cross_entropy(x, y), None))
    assert compute(total) == pytest.approx(whole, rel=1e-6)


def test_superclass_accuracy():
    superclass_of = np.array([0, 0, 1, 1])
    logits = jnp.eye(4)[jnp.array([1, 0, 3, 0])]
    labels = jnp.array([0, 0, 2, 3])
    values = compute(measure(logits, labels, 1.0, jnp.zeros(4), superclass_of), coarse=True)
    assert values["accuracy"] == 0.25
    assert values["coarse_accuracy"] == 0.75


def test_label_smoothing_against_its_definition():
    logits, labels = make(2, 5, 4)
    targets = np.full((5, 4), 0.1 / 4) + 0.9 * np.eye(4)[labels]
    expected = -(targets * np.log(softmax(logits))).sum(axis=1)
    got = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing=0.1)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_no_example_is_an_error():
    with pytest.raises(ValueError, match="no example"):
        compute(Metrics.zero())


def test_fewer_than_five_classes():
    logits, labels = make(3, 6, 3)
    values = compute(measure(logits, labels, 1.0, cross_entropy(logits, labels), None))
    assert values["top5_accuracy"] == 1.0
