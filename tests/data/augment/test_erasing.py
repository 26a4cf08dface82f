import numpy as np
import pytest
import scipy.stats
from augmented import apply, some_images


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_covers_a_square_with_its_centre_anywhere(size):
    count, height, width = 6000, 9, 7
    images = np.full((count, height, width, 2), 200, np.uint8)
    holes = apply([{"name": "cutout", "size": size, "fill": 10}], images) == 10
    assert (holes[..., 0] == holes[..., 1]).all()
    expected = {}
    for row in range(height):
        for column in range(width):
            mask = np.zeros((height, width), bool)
            top, left = row - size // 2, column - size // 2
            mask[max(top, 0) : top + size, max(left, 0) : left + size] = True
            expected[mask.tobytes()] = 0
    assert len(expected) == height * width
    for hole in holes[..., 0]:
        expected[hole.tobytes()] += 1
    assert min(expected.values()) > 0
    assert scipy.stats.chisquare(list(expected.values())).pvalue > 1e-4


def test_cutout_keeps_the_rest_and_fills_with_grey():
    images = some_images(24)
    result = apply([{"name": "cutout", "size": 5}], images)
    changed = result != images
    assert (result[changed] == 127.5).all()
    assert (changed.all(-1) == changed.any(-1)).all() and changed.any((1, 2, 3)).all()
