"""The compiled library: random shapes, concurrent callers, unused gradients."""

import functools
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import quick
from convolution_reference import convolve, error, random_operands
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flaxcifar.ops.geometry import Geometry
from flaxcifar.ops.onednn import convolution, load, threads

TOLERANCE = {"float32": 3e-5, "bfloat16": 8e-3}


@functools.partial(quick.jit, static_argnums=3)
def passes(x, kernel, dy, g):
    """Returns the convolution and both gradients."""
    result, pullback = jax.vjp(lambda x, kernel: convolution(x, kernel, g), x, kernel)
    return result, *pullback(dy)


@st.composite
def problems(draw):
    """Convolutions of up to 5 x 4 taps, about half of them by Winograd's algorithm."""
    kernel = draw(st.one_of(st.just((3, 3)), st.tuples(st.integers(1, 5), st.integers(1, 4))))
    plain = draw(st.booleans())
    strides = (1, 1) if plain else draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = (1, 1) if plain else draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    groups = 1 if plain else draw(st.integers(1, 3))
    most = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    padding = tuple(draw(st.tuples(st.integers(0, m), st.integers(0, m))) for m in most)
    size = [
        draw(st.integers(max(1, m + 1 - sum(p)), 13)) for m, p in zip(most, padding, strict=True)
    ]
    c, o = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    shape = draw(st.integers(1, 40)), *size, c * groups
    return shape, (*kernel, c, o * groups), Geometry(strides, padding, dilation, groups)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(problems(), st.sampled_from(sorted(TOLERANCE)))
def test_random_shapes(onednn, problem, dtype):
    shape, kernel_shape, g = problem
    x, kernel, dy = random_operands(shape, kernel_shape, dtype)
    options = dict(strides=g.strides, padding=g.padding, dilation=g.dilation, groups=g.groups)
    y, dx, dkernel = convolve(x, kernel, dy, **options)
    assert g.output_shape(shape, kernel_shape) == y.shape
    for got, right in zip(passes(x, kernel, dy(y.shape), g), (y, dx, dkernel), strict=True):
        assert error(got, right) < TOLERANCE[dtype]


@pytest.mark.parametrize("channels", [(16, 320), (352, 352)])
def test_large_kernels(onednn, channels):
    """Winograd with one chunk per thread and with a shared chunk, and partly filled blocks."""
    x, kernel, dy = random_operands((67, 4, 4, channels[0]), (3, 3, *channels))
    g = Geometry((1, 1), ((1, 1), (1, 1)))
    right = convolve(x, kernel, dy)
    for got, wanted in zip(passes(x, kernel, dy(right[0].shape), g), right, strict=True):
        assert error(got, wanted) < TOLERANCE["float32"]


def test_bfloat16_without_avx512(onednn, tmp_path):
    """Without AVX-512, here disabled by an environment variable, oneDNN has no bfloat16."""
    script = tmp_path / "script.py"
    script.write_text(
        "import jax, jax.numpy as jnp\n"
        "from flaxcifar.ops.geometry import Geometry\n"
        "from flaxcifar.ops.onednn import convolution, load\n"
        "assert not load().flaxcifar_onednn_has_bfloat16()\n"
        "assert load().flaxcifar_onednn_bfloat16_gain() == 1\n"
        "x, kernel = jnp.ones((2, 4, 4, 3), jnp.bfloat16), jnp.ones((1, 1, 3, 5), jnp.bfloat16)\n"
        "g = Geometry((2, 2), ((0, 0), (0, 0)))\n"
        "y, pullback = jax.vjp(lambda x, kernel: convolution(x, kernel, g), x, kernel)\n"
        "dx, dkernel = pullback(y)\n"
        "assert y.dtype == dx.dtype == dkernel.dtype == jnp.bfloat16\n"
        "assert (y == 3).all() and dx[0, 0, 0, 0] == 15 and (dkernel == 24).all()\n"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    subprocess.run([sys.executable, script], env=environment, check=True)


def test_the_gain_of_bfloat16_is_this_processors(onednn):
    flags = set(Path("/proc/cpuinfo").read_text().split())
    right = 16 if "amx_bf16" in flags else 2.8 if "avx512_bf16" in flags else 1
    assert load().flaxcifar_onednn_bfloat16_gain() == right


@pytest.mark.parametrize(
    ("dtype", "gain", "size", "tile"),
    [
        ("float32", 16, 8, 4),
        ("bfloat16", 16, 8, 0),
        ("bfloat16", 16, 4, 4),  # oneDNN is slow on small maps
        ("bfloat16", 2.8, 8, 4),
        ("bfloat16", 2.8, 5, 0),  # 2.25 times fewer products
        ("bfloat16", 1, 5, 3),
    ],
)
def test_winograd_where_it_saves_more_than_bfloat16(onednn, monkeypatch, dtype, gain, size, tile):
    library = types.SimpleNamespace(
        flaxcifar_onednn_has_bfloat16=lambda: True, flaxcifar_onednn_bfloat16_gain=lambda: gain
    )
    monkeypatch.setattr("flaxcifar.ops.onednn.load", lambda: library)
    x, kernel, _ = random_operands((64, size, size, 32), (3, 3, 32, 32), dtype)
    g = Geometry((1, 1), ((1, 1), (1, 1)))
    text = jax.jit(lambda x, kernel: convolution(x, kernel, g)).lower(x, kernel).as_text()
    assert f"tile = {tile} " in text


def test_many_callers_at_once(onednn):
    g = Geometry((1, 1), ((1, 1), (1, 1)))
    shapes = [((64, 4, 4, 16 + n), (3, 3, 16 + n, 16)) for n in range(4)]
    operands = [random_operands(*shape, seed=n)[:2] for n, shape in enumerate(shapes)]
    run = jax.jit(lambda x, kernel: convolution(x, kernel, g))
    right = [np.asarray(run(*pair)) for pair in operands]
    wrong = []

    def call(n):
        for _ in range(20):
            if not np.array_equal(run(*operands[n % 4]), right[n % 4]):
                wrong.append(n)

    callers = [threading.Thread(target=call, args=(n,)) for n in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_unused_gradients_are_not_computed(onednn):
    x, kernel, _ = random_operands((4, 8, 8, 3), (3, 3, 3, 16))
    g = Geometry((1, 1), ((1, 1), (1, 1)))

    def loss(kernel, x):
        return convolution(x, kernel, g).sum()

    text = jax.jit(jax.grad(loss)).lower(kernel, x).compile().as_text()
    assert "flaxcifar_convolution_kernel_gradient" in text
    assert "flaxcifar_convolution_input_gradient" not in text
    text = jax.jit(jax.grad(loss, 1)).lower(kernel, x).compile().as_text()
    assert "flaxcifar_convolution_kernel_gradient" not in text


def test_a_mapped_batch_is_one_call(onednn):
    x, kernel, _ = random_operands((3, 4, 8, 8, 8), (3, 3, 8, 16))
    g = Geometry((1, 1), ((1, 1), (1, 1)))
    mapped = jax.jit(jax.vmap(lambda x: convolution(x, kernel, g)))
    text = mapped.lower(x).as_text()
    assert text.count("flaxcifar_convolution_forward") == 1 and "while" not in text
    np.testing.assert_allclose(mapped(x)[1], convolution(x[1], kernel, g), rtol=1e-4, atol=1e-4)


def test_threads_follow_the_rule_of_xlas_pool(monkeypatch):
    monkeypatch.delenv("NPROC", raising=False)
    assert threads() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("NPROC", "3")
    assert threads() == 3


def test_loading_leaves_the_environment_alone(onednn):
    assert "GOMP_SPINCOUNT" not in os.environ
