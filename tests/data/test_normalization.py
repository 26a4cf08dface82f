import json

import jax.numpy as jnp
import numpy as np
import pytest

from flaxcifar.data.normalization import Normalization, statistics
from flaxcifar.errors import UserError


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    # More than one chunk, and channels that differ.
    images = random.integers(0, 256, (5000, 4, 4, 3))
    return (images // np.array([1, 2, 3])).astype(np.uint8)


def test_channel_statistics_are_numpys(images):
    found = statistics(images, np.arange(5000), "channel")
    exact = images.astype(np.float64)
    np.testing.assert_allclose(found.mean, exact.mean(axis=(0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(found.std, exact.std(axis=(0, 1, 2)), rtol=1e-13)


def test_scalar_statistics_run_over_everything(images):
    found = statistics(images, np.arange(5000), "scalar")
    exact = images.astype(np.float64)
    np.testing.assert_allclose(found.mean, [exact.mean()], rtol=1e-13)
    np.testing.assert_allclose(found.std, [exact.std()], rtol=1e-13)


def test_only_the_given_images_count(images):
    indices = np.arange(0, 5000, 7)
    found = statistics(images, indices, "channel")
    exact = images[indices].astype(np.float64).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(found.mean, exact, rtol=1e-13)


@pytest.mark.parametrize("kind", ["channel", "scalar"])
@pytest.mark.parametrize("library", [np, jnp])
def test_normalized_images_have_mean_0_and_deviation_1(images, kind, library):
    normalization = statistics(images, np.arange(5000), kind)
    result = normalization(library.asarray(images, library.float32))
    assert result.dtype == np.float32
    result = np.asarray(result, np.float64)
    axis = (0, 1, 2) if kind == "channel" else None
    np.testing.assert_allclose(result.mean(axis), 0, atol=1e-5)
    np.testing.assert_allclose(result.std(axis), 1, atol=1e-5)


def test_the_formula_is_that_of_cifar_vgg():
    result = Normalization((121.936,), (68.389,))(np.array([[[[10, 20, 30]]]], np.float32))
    expected = (np.array([10, 20, 30]) - 121.936) / (68.389 + 1e-7)
    np.testing.assert_allclose(result[0, 0, 0], expected, rtol=1e-6)


def test_equal_pixels_do_not_divide_by_zero():
    normalization = statistics(np.full((3, 2, 2, 3), 7, np.uint8), np.arange(3), "channel")
    np.testing.assert_array_equal(normalization(np.full((1, 2, 2, 3), 7, np.float32)), 0)


def test_unit_divides_by_255(images):
    normalization = statistics(images, np.arange(10), "unit")
    result = normalization(images.astype(np.float32))
    np.testing.assert_allclose(result, images / 255, rtol=1e-6)


def test_json_keeps_every_bit(images):
    normalization = statistics(images, np.arange(5000), "channel")
    text = json.dumps(normalization.to_json())
    assert Normalization.from_json(json.loads(text)) == normalization


def test_unknown_kind(images):
    with pytest.raises(UserError, match="data.normalization must be .*, got 'batch'"):
        statistics(images, np.arange(3), "batch")
