"""The choice of a tile size, and that the matrices define a convolution."""

import numpy as np
import pytest

from flaxcifar.ops import winograd
from flaxcifar.ops.geometry import Geometry

SAME = ((1, 1), (1, 1))


@pytest.mark.parametrize("m", (2, 3, 4))
def test_matrices_give_a_correlation(m):
    rng = np.random.default_rng(0)
    signal, kernel = rng.integers(-9, 9, m + 2), rng.integers(-9, 9, 3)
    inner = (winograd._KERNEL[m] @ kernel) * (np.array(winograd._INPUT[m]) @ signal)
    result = np.array(winograd._OUTPUT[m]) @ inner
    np.testing.assert_allclose(result, np.correlate(signal, kernel, "valid"), atol=1e-12)


@pytest.mark.parametrize(
    "shape, kernel, geometry, m",
    [
        ((128, 32, 32, 64), (3, 3, 64, 64), Geometry((1, 1), SAME), 4),
        ((128, 4, 4, 512), (3, 3, 512, 512), Geometry((1, 1), SAME), 4),
        ((128, 2, 2, 512), (3, 3, 512, 512), Geometry((1, 1), SAME), 2),
        ((128, 6, 6, 64), (3, 3, 64, 64), Geometry((1, 1), ((0, 0), (0, 0))), 4),
        *(
            ((128, size, size, 64), (3, 3, 64, 64), Geometry((1, 1), SAME), m)
            for size, m in {1: 0, 3: 3, 5: 3, 6: 3, 7: 4, 9: 3, 10: 4, 11: 4, 15: 4}.items()
        ),
        ((32, 4, 4, 64), (3, 3, 64, 64), Geometry((1, 1), SAME), 0),  # too few tiles
        ((128, 8, 8, 64), (3, 3, 64, 8), Geometry((1, 1), SAME), 0),  # too few channels
        ((128, 8, 8, 3), (3, 3, 3, 64), Geometry((1, 1), SAME), 0),
        ((128, 8, 8, 64), (3, 3, 64, 64), Geometry((2, 2), SAME), 0),
        ((128, 8, 8, 64), (3, 3, 64, 64), Geometry((1, 1), SAME, (2, 2)), 0),
        ((128, 8, 8, 64), (3, 3, 32, 64), Geometry((1, 1), SAME, groups=2), 0),
        ((128, 8, 8, 64), (3, 3, 64, 64), Geometry((1, 1), ((3, 1), (1, 1))), 0),
        ((128, 8, 8, 64), (1, 1, 64, 64), Geometry((1, 1), ((0, 0), (0, 0))), 0),
        ((128, 8, 8, 64), (2, 2, 64, 64), Geometry((1, 1), ((0, 0), (0, 0))), 0),
    ],
)
def test_tile_size(shape, kernel, geometry, m):
    assert winograd.tile_size(geometry, shape, kernel) == m


def test_tile_size_asks_for_the_least_saving():
    shape, kernel, same = (128, 5, 5, 64), (3, 3, 64, 64), Geometry((1, 1), SAME)
    assert winograd.tile_size(same, shape, kernel, least_saving=2.25) == 3  # 225 / 100 products
    assert winograd.tile_size(same, shape, kernel, least_saving=2.26) == 0
