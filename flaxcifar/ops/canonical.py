"""Convolutions on a CPU in plain JAX that never leave XLA's fast paths.

XLA on a CPU has one fast convolution: NHWC with HWIO, no dilation, an input no smaller than the
kernel. What autodiff makes of it is neither, and XLA's pass that repairs it skips the bodies of
loops; on maps of 2 x 2 it falls back to scalar code, a hundred times slower. Here each pass is
written as a canonical convolution, as matrix products or by Winograd's algorithm. Reverse-mode
differentiation only, and only once; kernel dilation and groups have no such form here.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from flaxcifar.ops import winograd
from flaxcifar.ops.geometry import Geometry, vary_like

_ROWS = 2048  # pixels whose shifted copies are held at once


def convolution(lhs: jax.Array, rhs: jax.Array, g: Geometry, exact: bool = False) -> jax.Array:
    """Convolves NHWC activations [N, H, W, C] with an HWIO kernel [KH, KW, C, O] of the same dtype.

    Args:
      lhs: float32 or bfloat16 (sums are float32).
      rhs: the kernel.
      g: strides and padding, without dilation and groups.
      exact: without Winograd's algorithm, whose rounding error is some ten times larger.

    Returns:
      [N, OH, OW, O] of the same dtype.
    """
    m = 0 if exact else winograd.tile_size(g, lhs.shape, rhs.shape)
    return _convolution(lhs, rhs, g, m)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(lhs, rhs, g, m):
    if m:
        return winograd.convolution(lhs, rhs, g, m)
    return _canonical(lhs, rhs, g.strides, g.padding)


def _forward(lhs, rhs, g, m):
    return _convolution(lhs, rhs, g, m), (lhs, rhs)


def _backward(g, m, saved, dy):
    lhs, rhs = saved
    if m:
        turned = rhs[::-1, ::-1].swapaxes(2, 3)
        pads = tuple((2 - before, 2 - after) for before, after in g.padding)
        dx = winograd.convolution(dy, turned, Geometry((1, 1), pads), m)
        return dx, winograd.kernel_gradient(lhs, dy, g, m)
    return _input_gradient(lhs.shape, rhs, dy, g), _kernel_gradient(lhs, rhs.shape, dy, g)


_convolution.defvjp(_forward, _backward)


def _canonical(x, kernel, strides, padding):
    """The convolution as XLA's fast path takes it; negative padding crops."""
    if any(k > size for k, size in zip(kernel.shape[:2], x.shape[1:3], strict=True)) or any(
        pad < 0 for pair in padding for pad in pair
    ):
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*p, 0) for p in padding), (0, 0, 0)])
        padding = ((0, 0), (0, 0))
    if kernel.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0)):
        x = x[:, :: strides[0], :: strides[1]]
        return _dot(x, kernel[0, 0], ((3,), (0,)))
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _dot(a, b, axes):
    sums = lax.dot_general(a, b, (axes, ((), ())), preferred_element_type=jnp.float32)
    return sums.astype(a.dtype)


def _input_gradient(shape, kernel, dy, g):
    """Returns the gradient of the input [N, H, W, C], one stride phase of its pixels at a time.

    Pixel s * q + r takes part through the kernel taps i with i = r + padding modulo s only: a
    convolution of dy with every s-th tap, turned, without the zeros that a dilated dy would have.
    """
    phases = []
    for rows in range(g.strides[0]):
        line = [_phase(shape, kernel, dy, g, (rows, columns)) for columns in range(g.strides[1])]
        phases.append(jnp.stack(line, axis=3))  # [N, Q, R, phases, C]
    x = jnp.stack(phases, axis=2)  # [N, Q, phases, R, phases, C]
    n, q, s, r, t, c = x.shape
    return x.reshape(n, q * s, r * t, c)[:, : shape[1], : shape[2]]


def _phase(shape, kernel, dy, g, phase):
    first, sizes, padding = [], [], []
    for axis in range(2):
        stride, before = g.strides[axis], g.padding[axis][0]
        tap = (phase[axis] + before) % stride
        taps = len(range(tap, kernel.shape[axis], stride))
        size = -(-shape[1 + axis] // stride)
        start = (phase[axis] + before - tap) // stride  # the output row of pixel `phase` and tap 0
        low = taps - 1 - start
        first.append(tap)
        sizes.append((taps, size))
        padding.append((low, size + taps - 1 - low - dy.shape[1 + axis]))
    if 0 in (sizes[0][0], sizes[1][0]):
        return jnp.zeros((shape[0], sizes[0][1], sizes[1][1], shape[3]), dy.dtype)
    part = kernel[first[0] :: g.strides[0], first[1] :: g.strides[1]]
    return _canonical(dy, part[::-1, ::-1].swapaxes(2, 3), (1, 1), tuple(padding))


def _kernel_gradient(x, shape, dy, g):
    """Returns the gradient of the kernel [KH, KW, C, O]: a matrix product for each of its taps."""
    n, height, width, _ = dy.shape
    most = max(1, _ROWS // (height * width))
    images = next(size for size in range(min(most, n), 0, -1) if n % size == 0)

    def chunk(total, pair):
        a, b = pair
        a = jnp.pad(a, ((0, 0), *g.padding, (0, 0)))
        taps = [
            lax.dot_general(
                a[:, i :: g.strides[0], j :: g.strides[1]][:, :height, :width],
                b,
                (((0, 1, 2), (0, 1, 2)), ((), ())),
                preferred_element_type=jnp.float32,
            )
            for i in range(shape[0])
            for j in range(shape[1])
        ]
        return total + jnp.stack(taps).reshape(shape), None

    zeros = vary_like(jnp.zeros(shape), x, dy)
    chunks = tuple(a.reshape(n // images, images, *a.shape[1:]) for a in (x, dy))
    return lax.scan(chunk, zeros, chunks)[0].astype(x.dtype)
