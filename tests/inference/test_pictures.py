import numpy as np

from flaxcifar.inference import pictures


def test_a_sheet_has_the_images_row_by_row():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((5, 2, 3, 1), np.uint8)
    found = pictures.sheet(images, columns=3)[..., 0]
    np.testing.assert_array_equal(found[::2, ::3], [[0, 1, 2], [3, 4, 0]])
    assert found.shape == (4, 9)


def test_only_large_images_are_made_smaller():
    for size, expected in ((65, 64), (64, 64), (8, 8)):
        images = np.full((2, size, size, 3), 7, np.uint8)
        assert pictures.bounded(images).shape == (2, expected, expected, 3)


def test_filters_are_stretched_to_the_full_range():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 5))
    found = pictures.filters({"dense/kernel": np.zeros((4, 4)), "conv/kernel": kernel})
    # A transparent line at the right of each of 5, and no more filters in the row.
    assert found.shape == (4, 16 * 4, 4) and not found[:, 5 * 4 :].any()
    tiles = found.reshape(4, 16, 4, 4)[:3, :5, :3]
    assert (tiles.min(axis=(0, 2, 3)) == 0).all() and (tiles[..., 3] == 255).all()
    assert (tiles[..., :3].max(axis=(0, 2, 3)) == 255).all()
    assert pictures.filters({"dense/kernel": np.zeros((4, 4))}) is None
