"""The plain JAX backend: correct, and only convolutions that XLA's fast kernels accept."""

import re

import jax
import jax.numpy as jnp
import pytest
import quick
from convolution_reference import convolve, error, random_operands
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxcifar.ops.canonical import convolution
from flaxcifar.ops.geometry import Geometry


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.data(),
)
def test_random_geometry(kernel, strides, data):
    padding = tuple(data.draw(st.tuples(st.integers(0, k), st.integers(0, k))) for k in kernel)
    size = [
        data.draw(st.integers(max(1, k - sum(p)), 9)) for k, p in zip(kernel, padding, strict=True)
    ]
    x, w, dy = random_operands((3, *size, 2), (*kernel, 2, 3))
    right = convolve(x, w, dy, strides=strides, padding=padding)
    g = Geometry(strides, padding)

    @quick.jit
    def run(x, w, dy):
        y, pullback = jax.vjp(lambda x, w: convolution(x, w, g), x, w)
        return y, *pullback(dy)

    for got, wanted in zip(run(x, w, dy(right[0].shape)), right, strict=True):
        assert error(got, wanted) < 1e-5


@pytest.mark.parametrize(
    "shape, kernel, strides",
    [
        ((64, 2, 2, 32), (3, 3, 32, 32), (1, 1)),
        ((8, 2, 2, 32), (3, 3, 32, 32), (1, 1)),
        ((8, 8, 8, 32), (3, 3, 32, 32), (2, 2)),
        ((8, 8, 8, 3), (3, 3, 3, 32), (1, 1)),
    ],
)
def test_inside_a_loop_every_convolution_is_canonical(shape, kernel, strides):
    """XLA calls Eigen for these: NHWC, HWIO, no dilation, maps no smaller than the kernel."""
    g = Geometry(strides, ((1, 1), (1, 1)))

    def loss(x, w):
        return jnp.sum(convolution(x, w, g) ** 2)

    def loop(x, w):
        return jax.lax.scan(lambda c, x: (c, jax.grad(loss, (0, 1))(x, w)), 0.0, x[None])[1]

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in (shape, kernel)]
    text = jax.jit(loop).lower(*shapes).as_text()
    convolutions = re.findall(r"stablehlo.convolution\(.*", text)
    for line in convolutions:
        assert "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in line
        assert "dilate" not in line or "lhs_dilate = [1, 1]" in line
        operands = re.search(r"\(tensor<\d+x(\d+)x(\d+)x\d+xf32>, tensor<(\d+)x(\d+)x", line)
        height, width, rows, columns = map(int, operands.groups())
        assert height >= rows and width >= columns
    if shape[1] == 8:
        assert convolutions
