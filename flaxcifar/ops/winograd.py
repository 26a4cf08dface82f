"""Winograd's minimal filtering F(m x m, 3 x 3) for convolutions with stride 1, in plain JAX.

An m x m output tile costs (m + 2)^2 multiplications instead of 9 m^2, a quarter for m = 4. They are
(m + 2)^2 matrix products [tiles, C] x [C, O], which XLA runs near a CPU's peak rate. The images are
processed in chunks whose transforms stay in the cache, because memory traffic would cancel the
gain. Sums and transforms are float32 for every dtype.

A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flaxcifar.ops.geometry import Geometry, vary_like

# The paper's matrices B^T, G and A^T, by m.
_INPUT = {
    2: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    3: (
        (2, -1, -2, 1, 0),
        (0, -2, -1, 1, 0),
        (0, 2, -3, 1, 0),
        (0, -1, 0, 1, 0),
        (0, 2, -1, -2, 1),
    ),
    4: (
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
}
_KERNEL = {
    2: np.array(((2, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 2))) / 2,
    3: np.array(((3, 0, 0), (-3, -3, -3), (-1, 1, -1), (1, 2, 4), (0, 0, 6))) / 6,
    4: np.array(((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))) / 24,
}
_OUTPUT = {
    2: ((1, 1, 1, 0), (0, 1, -1, -1)),
    3: ((1, 1, 1, 1, 0), (0, 1, -1, 2, 0), (0, 1, 1, 4, 1)),
    4: ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
}
_CHUNK = 128  # tiles per chunk


def tile_size(
    g: Geometry, lhs: Sequence[int], rhs: Sequence[int], least_saving: float = 1.0
) -> int:
    """Returns the best tile size m (4, 3 or 2) for these shapes, or 0 if the algorithm is slower.

    The transformed kernel is (m + 2)^2 / 9 times as large as the kernel, so many tiles must share
    it. With few channels the transforms of the activations cost too much relative to the products.
    Tiles may extend past the edge of a map. The m with the fewest multiplications wins if it
    reduces those of the direct convolution by a factor of at least `least_saving`.

    Args:
      g: the geometry.
      lhs: shape of the activations [N, H, W, C].
      rhs: shape of the kernel [KH, KW, C / groups, O].
      least_saving: required reduction of multiplications.
    """
    fits = tuple(rhs[:2]) == (3, 3) and g.strides == g.dilation == (1, 1) and g.groups == 1
    channels = min(rhs[2:]) >= 16 and max(rhs[2:]) <= 16384
    if not (fits and channels) or max(g.padding[0] + g.padding[1]) > 2:
        return 0
    n, height, width, _ = g.output_shape(lhs, rhs)
    tiles = {m: n * -(-height // m) * -(-width // m) for m in (4, 3, 2)}
    m = min(tiles, key=lambda m: tiles[m] * (m + 2) ** 2)
    saving = n * height * width * 9 / (tiles[m] * (m + 2) ** 2)
    return m if tiles[m] >= 64 and saving >= least_saving else 0


def convolution(lhs: jax.Array, rhs: jax.Array, g: Geometry, m: int) -> jax.Array:
    """Convolves lhs [N, H, W, C] with rhs [3, 3, C, O], given m from `tile_size`."""
    shape = g.output_shape(lhs.shape, rhs.shape)
    grid = _grid(shape, m)
    kernel = _both(_KERNEL[m], rhs.reshape(9, -1)).reshape(-1, *rhs.shape[2:])

    def chunk(x):
        product = lax.dot_general(_input(x, g, m, grid), kernel, (((2,), (1,)), ((0,), (0,))))
        y = _both(_OUTPUT[m], product.reshape(len(product), -1))
        y = y.reshape(m, m, x.shape[0], *grid, shape[3]).transpose(2, 3, 0, 4, 1, 5)
        y = y.reshape(x.shape[0], m * grid[0], m * grid[1], shape[3])
        return y[:, : shape[1], : shape[2]].astype(lhs.dtype)

    return lax.map(chunk, _chunks(lhs, grid)).reshape(shape)


def kernel_gradient(lhs: jax.Array, dy: jax.Array, g: Geometry, m: int) -> jax.Array:
    """Returns the gradient [3, 3, C, O] of rhs for lhs [N, H, W, C] and dy [N, OH, OW, O]."""
    grid = _grid(dy.shape, m)

    def chunk(total, pair):
        x, z = _input(pair[0], g, m, grid), _output_gradient(pair[1], m, grid)
        return total + lax.dot_general(x, z, (((1,), (1,)), ((0,), (0,)))), None

    zeros = jnp.zeros(((m + 2) ** 2, lhs.shape[3], dy.shape[3]))
    chunks = _chunks(lhs, grid), _chunks(dy, grid)
    total, _ = lax.scan(chunk, vary_like(zeros, lhs, dy), chunks)
    gradient = _both(_KERNEL[m].T, total.reshape(len(total), -1))
    return gradient.reshape(3, 3, *total.shape[1:]).astype(lhs.dtype)


def _grid(shape: Sequence[int], m: int) -> tuple[int, int]:
    """Returns the numbers of tile rows and columns of an output of `shape`."""
    return -(-shape[1] // m), -(-shape[2] // m)


def _chunks(x: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Returns x [N, ...] as [chunks, images, ...]."""
    limit = max(1, _CHUNK // (grid[0] * grid[1]))
    images = next(size for size in range(min(limit, len(x)), 0, -1) if len(x) % size == 0)
    return x.reshape(len(x) // images, images, *x.shape[1:])


def _both(matrix: np.ndarray | tuple, flat: jax.Array) -> jax.Array:
    """Applies `matrix` [R, S] along both axes of [S, S, ...], given as [S * S, ...]."""
    square = np.asarray(matrix, np.float32)
    return jnp.dot(np.kron(square, square), flat, preferred_element_type=jnp.float32)


def _combine(matrix: np.ndarray | tuple, terms: Sequence[jax.Array]) -> list[Any]:
    return [sum(float(c) * x for c, x in zip(row, terms, strict=True) if c) for row in matrix]


def _input(x: jax.Array, g: Geometry, m: int, grid: tuple[int, int]) -> jax.Array:
    """Returns the transformed input tiles [(m + 2)^2, tiles, C]."""
    pads = [
        (before, m * tiles + 2 - before - size)
        for (before, _), tiles, size in zip(g.padding, grid, x.shape[1:3], strict=True)
    ]
    x = jnp.pad(x.astype(jnp.float32), ((0, 0), *pads, (0, 0)))
    return _tiles(_INPUT[m], x, m, grid)


def _output_gradient(dy: jax.Array, m: int, grid: tuple[int, int]) -> jax.Array:
    """Returns the transformed gradient tiles [(m + 2)^2, tiles, O]."""
    pads = [(0, m * tiles - size) for tiles, size in zip(grid, dy.shape[1:3], strict=True)]
    dy = jnp.pad(dy.astype(jnp.float32), ((0, 0), *pads, (0, 0)))
    return _tiles(np.transpose(_OUTPUT[m]), dy, m, grid)


def _tiles(matrix: np.ndarray | tuple, x: jax.Array, m: int, grid: tuple[int, int]) -> jax.Array:
    """Applies `matrix` [R, S] to rows and columns of the S x S tiles of x, m pixels apart."""

    def along(x, axis, tiles):
        end = m * (tiles - 1) + 1
        parts = [lax.slice_in_dim(x, i, i + end, m, axis) for i in range(len(np.transpose(matrix)))]
        return jnp.stack(_combine(matrix, parts))

    # The barrier stops XLA from recomputing the first result for every term of the second.
    columns = lax.optimization_barrier(along(x, 2, grid[1]))
    return along(columns, 2, grid[0]).reshape(len(matrix) ** 2, -1, x.shape[3])
