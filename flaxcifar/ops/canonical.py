"""CPU convolutions in plain JAX, written so that XLA's fast kernels apply.

XLA on a CPU has one fast convolution: NHWC activations, HWIO kernel, no dilation, an input at least
as large as the kernel. The gradients that autodiff derives do not have that form. XLA has a pass
that rewrites them, but it skips the bodies of loops, and on 2 x 2 maps XLA falls back to scalar
code that is a hundred times slower. Here the forward pass and both gradients are each written as a
canonical convolution, as matrix products or with Winograd's algorithm. Only first-order
reverse-mode differentiation is supported, and neither kernel dilation nor groups.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from flaxcifar.ops import winograd
from flaxcifar.ops.geometry import Geometry, vary_like

_ROWS = 2048  # output pixels per chunk of the kernel's gradient


def convolution(lhs: jax.Array, rhs: jax.Array, g: Geometry, exact: bool = False) -> jax.Array:
    """Convolves NHWC activations [N, H, W, C] with an HWIO kernel [KH, KW, C, O] of the same dtype.

    Args:
      lhs: float32 or bfloat16 (sums are float32).
      rhs: the kernel.
      g: strides and padding; dilation and groups must be 1.
      exact: excludes Winograd's algorithm, whose rounding error is about ten times larger.

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
        vertical, horizontal = ((2 - before, 2 - after) for before, after in g.padding)
        dx = winograd.convolution(dy, turned, Geometry((1, 1), (vertical, horizontal)), m)
        return dx, winograd.kernel_gradient(lhs, dy, g, m)
    return _input_gradient(lhs.shape, rhs, dy, g), _kernel_gradient(lhs, rhs.shape, dy, g)


_convolution.defvjp(_forward, _backward)


def _canonical(x, kernel, strides, padding):
    """Returns the convolution in the form of XLA's fast kernel; negative padding crops."""
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
    """Returns the gradient of the input [N, H, W, C], computed separately for each stride phase.

    Pixel s * q + r contributes only through the kernel taps i with i = r + padding modulo s. Each
    phase is a convolution of dy with every s-th tap, rotated by 180 degrees. This avoids the zeros
    of a dilated dy.
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
    """Returns the gradient of the kernel [KH, KW, C, O], one matrix product per tap."""
    n, height, width, _ = dy.shape
    limit = max(1, _ROWS // (height * width))
    images = next(size for size in range(min(limit, n), 0, -1) if n % size == 0)

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
