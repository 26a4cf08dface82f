"""Arrays of the user's own become uint8 exactly, or are refused with the remedy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flaxcifar.data.arrays import as_images, as_labels, fingerprint
from flaxcifar.errors import UserError

pixels = hnp.arrays(np.uint8, st.tuples(st.integers(1, 4), st.just(3), st.just(3), st.just(3)))


@given(pixels, st.sampled_from([np.float32, np.float64]))
def test_every_scale_of_256_steps_comes_back(images, dtype):
    images.flat[:2] = 0, 255  # a scale is told by its ends
    scaled = images.astype(dtype)
    for array in (scaled, scaled / dtype(255), scaled / dtype(127.5) - dtype(1)):
        np.testing.assert_array_equal(as_images(array), images)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.int64])
def test_integers_from_0_to_255_are_kept(dtype):
    images = np.arange(12).reshape(1, 2, 2, 3).astype(dtype)
    found = as_images(images)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, images)


def test_grey_images_get_three_equal_channels():
    grey = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    for array in (grey, grey[..., None]):
        found = as_images(array)
        assert found.shape == (2, 2, 2, 3)
        assert all(np.array_equal(found[..., c], grey) for c in range(3))


def test_black_and_white_floats_span_the_whole_range():
    assert as_images(np.eye(2, dtype=np.float32)[None]).max() == 255


RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (RANDOM.normal(size=(2, 4, 4, 3)), "pass the pixels before normalization"),
        (RANDOM.uniform(size=(2, 4, 4, 3)), "256 steps exactly"),
        (np.full((1, 2, 2, 3), 300), "got int64 from 300 to 300"),
        (np.full((1, 2, 2, 3), -1), "from -1 to -1"),
        (np.full((1, 2, 2, 3), np.nan), "256 steps exactly"),
        (np.full((1, 2, 2, 3), 0.5) * 257, "256 steps exactly"),
        (np.zeros((1, 2, 2, 3), bool), "must be integers or floats, got bool"),
        (np.zeros((1, 3, 8, 8), np.uint8), r"np.moveaxis\(images, 1, -1\)"),
        (np.zeros((1, 8, 8, 4), np.uint8), r"must be \[N, H, W, 3\]"),
        (np.zeros((8, 8), np.uint8), r"got \[8, 8\]"),
    ],
)
def test_what_would_lose_is_refused(images, words):
    with pytest.raises(UserError, match=words) as caught:
        as_images(images)
    assert str(caught.value).startswith("images must") and "\n" not in str(caught.value)


def test_labels():
    for labels in ([0, 2, 1], [[0], [2], [1]], np.array([0, 2, 1], np.uint8)):
        found = as_labels(labels, 3)
        assert found.dtype == np.int32 and found.tolist() == [0, 2, 1]
    for labels, words in (
        (np.eye(3), "np.argmax"),
        (["a", "b", "c"], "np.unique"),
        ([0.0, 1.0, 2.0], "must be integers, one for each of the 3 images, got float64"),
        ([0, 1], r"got int64 \[2\]"),
    ):
        with pytest.raises(UserError, match=words):
            as_labels(labels, 3)


def test_the_fingerprint_depends_on_content_shape_and_dtype():
    array = np.arange(6, dtype=np.int32)
    others = [array[::-1], array.reshape(2, 3), array.astype(np.int64), None]
    found = {fingerprint(array), *map(fingerprint, others), fingerprint(array, None)}
    assert len(found) == 6 and fingerprint(array) == fingerprint(array.copy())
