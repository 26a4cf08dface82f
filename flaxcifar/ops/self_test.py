"""A start-up check that this machine computes what a training step needs rightly."""

import jax
import jax.numpy as jnp
import numpy as np

from flaxcifar.errors import UserError
from flaxcifar.ops.convolution import convolution, using

# Largest error as a share of the largest value.
_TOLERANCE = {"float32": 1e-4, "tf32": 1e-3, "bfloat16": 2e-2}
# In what a platform multiplies float32 numbers unless it is told otherwise.
_FLOAT32_AS = {"gpu": "tf32", "tpu": "bfloat16"}


def self_test(backend: str, dtype: str = "float32") -> None:
    """Compares a convolution with its gradients, and BatchNorm's sums, with NumPy in float64.

    The backend convolves with Winograd's algorithm and without. The sums are there
    because jaxlib 0.10.2 has a fused reduction on CPUs (YNN) that is silently wrong for some
    programs when the number of rows is odd; it was found right for those of a training step.

    Args:
      backend: of the convolution, one of `convolution.BACKENDS`.
      dtype: of the convolution: "float32" or "bfloat16".

    Raises:
      UserError: a result is wrong; it names the operation and a way round it.
    """
    multiplied = _FLOAT32_AS.get(jax.default_backend(), dtype) if dtype == "float32" else dtype
    tolerance = _TOLERANCE[multiplied]
    rng = np.random.default_rng(0)
    x, dy = (jnp.asarray(rng.normal(size=(4, 16, 16, 16)), dtype) for _ in range(2))
    kernel = jnp.asarray(rng.normal(size=(3, 3, 16, 16)), dtype)
    rows = jnp.asarray(rng.normal(size=(32769, 16)) + 1, jnp.float32)

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
        parts = "convolution", "input's gradient", "kernel's gradient"
        for part, result, right in zip(parts, results, _reference(*exact, stride), strict=True):
            hint = "; ops.convolution = 'xla' goes round it" if backend != "xla" else ""
            _compare(f"the {part} of backend {backend}", result, right, tolerance, hint)
    rows = np.asarray(rows, np.float64)
    hint = "; XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=-reduce goes round it"
    for result, right in zip(sums, (rows.sum(0), (rows**2).sum(0), (rows**2).sum()), strict=True):
        _compare("a sum", result, right, 1e-5, hint)


def _reference(x, kernel, dy, stride):
    """Returns output and gradients of a 3 x 3 SAME convolution of 16 x 16 maps in float64."""
    size = 16 // stride
    length = (size - 1) * stride + 1
    before = 1 if stride == 1 else 0  # SAME pads 16 pixels at stride 2 at the end only
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


def _compare(name, result, right, tolerance, hint):
    error = np.abs(np.asarray(result, np.float64) - right).max() / np.abs(right).max()
    if not error <= tolerance:
        raise UserError(f"{name} is wrong on this machine (relative error {error:.1e}){hint}")
