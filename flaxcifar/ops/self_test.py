"""Start-up check that this machine computes convolutions and sums correctly."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from flaxcifar.errors import UserError
from flaxcifar.ops.convolution import convolution, using

# Largest error relative to the largest value.
_TOLERANCE = {"float32": 1e-4, "tf32": 1e-3, "bfloat16": 2e-2}
# The precision in which a platform multiplies float32 numbers by default.
_FLOAT32_AS = {"gpu": "tf32", "tpu": "bfloat16"}


@functools.cache
def self_test(backend: str, dtype: str = "float32") -> None:
    """Compares a convolution, its gradients and BatchNorm's sums with NumPy in float64.

    Later calls in the same process return at once.

    The shapes exercise the backend with and without Winograd's algorithm. The sums are checked
    because jaxlib 0.10.2 has a fused CPU reduction (YNN) that is silently wrong for some programs
    with an odd number of rows. The reductions of a training step have not been affected.

    Args:
      backend: the convolution backend, one of `ops.BACKENDS`.
      dtype: the dtype of the convolution, "float32" or "bfloat16".

    Raises:
      UserError: a result is wrong. The message names the operation and a workaround.
    """
    multiplied = _FLOAT32_AS.get(jax.default_backend(), dtype) if dtype == "float32" else dtype
    tolerance = _TOLERANCE[multiplied]
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(size=(4, 16, 16, 16)).astype(jnp.dtype(dtype)) for _ in range(2))
    kernel = rng.normal(size=(3, 3, 16, 16)).astype(jnp.dtype(dtype))
    rows = (rng.normal(size=(32769, 16)) + 1).astype(np.float32)

    @jax.jit
    def run(x, kernel, dy, rows):
        results = {}
        for stride in (1, 2):

            def convolve(x, kernel, stride=stride):
                return convolution(
                    x, kernel, (stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )

            y, pullback = jax.vjp(convolve, x, kernel)
            results[stride] = y, *pullback(dy[:, : y.shape[1], : y.shape[2]])
        return results, (jnp.sum(rows, 0), jnp.sum(rows * rows, 0), jnp.sum(rows * rows))

    with using(backend):
        convolutions, sums = run(x, kernel, dy, rows)
    exact = [np.asarray(array, np.float64) for array in (x, kernel, dy)]
    for stride, results in convolutions.items():
        parts = "convolution", "input gradient", "kernel gradient"
        for part, result, expected in zip(parts, results, _reference(exact, stride), strict=True):
            hint = "; try ops.convolution = 'xla'" if backend != "xla" else ""
            _compare(f"the {part} of backend {backend}", result, expected, tolerance, hint)
    exact_rows = np.asarray(rows, np.float64)
    hint = "; try XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=-reduce"
    squares = exact_rows**2
    expected_sums = exact_rows.sum(0), squares.sum(0), squares.sum()
    for result, expected in zip(sums, expected_sums, strict=True):
        _compare("a sum", result, expected, 1e-5, hint)


def _reference(arrays: Sequence[np.ndarray], stride: int) -> tuple[np.ndarray, ...]:
    """Returns output and gradients of a 3 x 3 SAME convolution of 16 x 16 maps in float64."""
    x, kernel, dy = arrays
    size = 16 // stride
    length = (size - 1) * stride + 1
    before = 1 if stride == 1 else 0  # at stride 2, SAME pads 16 pixels only at the end
    padded = np.pad(x, ((0, 0), (before, 2 - before), (before, 2 - before), (0, 0)))
    dy = dy[:, :size, :size]
    y, dx, dk = np.zeros((4, size, size, 16)), np.zeros_like(padded), np.zeros_like(kernel)
    for i in range(3):
        for j in range(3):
            span = np.s_[:, i : i + length : stride, j : j + length : stride]
            y += padded[span] @ kernel[i, j]
            dx[span] += dy @ kernel[i, j].T
            dk[i, j] = np.einsum("nhwc,nhwo->co", padded[span], dy)
    return y, dx[:, before : before + 16, before : before + 16], dk


def _compare(
    name: str, result: jax.Array, expected: np.ndarray, tolerance: float, hint: str
) -> None:
    error = np.abs(np.asarray(result, np.float64) - expected).max() / np.abs(expected).max()
    if not error <= tolerance:
        raise UserError(f"{name} is wrong on this machine (relative error {error:.1e}){hint}")
