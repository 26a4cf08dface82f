"""Layers: initialisation, BatchNorm, dropout, activations, pooling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from flaxcifar.errors import UserError
from flaxcifar.models.layers import (
    BatchNorm,
    Conv,
    Dropout,
    Head,
    Linear,
    dropout_seeds,
    gelu,
    max_pool,
    silu,
)


def rngs():
    return nnx.Rngs(0)


def test_kernels_start_glorot_uniform_and_biases_at_zero():
    @quick.jit
    def init():
        layers = Conv(16, 64, (3, 3), rngs=rngs()), Linear(100, 200, rngs=rngs())
        return [(layer.kernel[...], layer.bias[...]) for layer in layers]

    (kernel, bias), (matrix, shift) = jax.device_get(init())
    bound = np.sqrt(6 / (9 * (16 + 64)))
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    assert stats.kstest(kernel.ravel(), "uniform", (-bound, 2 * bound)).pvalue > 1e-3
    assert 0.99 < np.abs(matrix).max() / np.sqrt(6 / 300) <= 1
    assert not np.any(bias) and not np.any(shift)


def reference_batch_norm(x, mean, var, scale, bias):
    """Keras' epsilon and momentum, in float64."""
    x = x.astype(np.float64)
    axes = tuple(range(x.ndim - 1))
    m, v = x.mean(axes), x.var(axes)
    y = (x - m) / np.sqrt(v + 1e-3) * scale + bias
    evaluated = (x - mean) / np.sqrt(var + 1e-3) * scale + bias
    return y, 0.99 * mean + 0.01 * m, 0.99 * var + 0.01 * v, evaluated


@pytest.mark.parametrize("shape", [(16, 4, 4, 6), (64, 6)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_batch_norm_equals_float64(shape, dtype):
    rng = np.random.default_rng(0)
    values = {name: rng.uniform(0.5, 2, 6).astype(np.float32) for name in ("mean", "var", "scale")}
    values["bias"] = rng.normal(size=6).astype(np.float32)
    x = rng.normal(1, 3, shape).astype(dtype)

    @quick.jit
    def run(x, values):
        layer = BatchNorm(6, dtype=dtype, axis_name=None, rngs=rngs())
        for name, value in values.items():
            getattr(layer, name)[...] = value
        layer.eval()
        evaluated, kept = layer(x), layer.mean[...]
        layer.train()
        return evaluated, kept, layer(x), layer.mean[...], layer.var[...]

    found_evaluated, kept, output, found_mean, found_var = run(x, values)
    y, mean, var, evaluated = reference_batch_norm(x, **values)
    tolerance = dict(rtol=1e-4, atol=1e-4) if dtype == jnp.float32 else dict(rtol=8e-3, atol=8e-3)
    np.testing.assert_allclose(np.asarray(found_evaluated, np.float64), evaluated, **tolerance)
    assert np.array_equal(kept, values["mean"])
    assert output.dtype == dtype
    np.testing.assert_allclose(np.asarray(output, np.float64), y, **tolerance)
    # The statistics are as exact under bfloat16.
    assert found_mean.dtype == found_var.dtype == jnp.float32
    np.testing.assert_allclose(found_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(found_var, var, rtol=1e-5)


def test_the_head_computes_in_float32():
    @quick.jit
    def run(x):
        head = Head(8, 3, rngs())
        return head(x), head.kernel[...]

    x = np.random.default_rng(0).normal(size=(4, 8)).astype(jnp.bfloat16)
    logits, kernel = run(x)
    expected = x.astype(np.float64) @ np.asarray(kernel, np.float64)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


@functools.partial(quick.jit, static_argnums=(0, 2, 3))
def _kept(rate, seeds, shape, salt):
    with dropout_seeds(seeds):
        return Dropout(rate, salt=salt)(jnp.ones((len(seeds), *shape))) > 0


def kept(rate, seeds, shape, salt=0):
    return np.asarray(_kept(rate, np.asarray(seeds, np.uint32), shape, salt))


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
def test_dropout_drops_its_share_of_every_example_and_every_element(rate):
    mask = kept(rate, np.arange(4000), (16, 16))
    n = mask.size
    assert abs(mask.mean() - (1 - rate)) < 4 * np.sqrt(rate * (1 - rate) / n)
    for counts, trials in ((mask.sum((1, 2)), 256), (mask.sum(0).ravel(), 4000)):
        z = (counts - trials * (1 - rate)) / np.sqrt(trials * rate * (1 - rate))
        # Chi-square of independent binomial counts, two-sided.
        p = stats.chi2.cdf(np.sum(z**2), len(z))
        assert 1e-3 < p < 1 - 1e-3


def correlation(a, b):
    """Returns the correlation of boolean arrays in standard deviations of independent ones."""
    return np.corrcoef(a.ravel(), b.ravel())[0, 1] * np.sqrt(a.size)


def test_dropout_masks_are_independent():
    seeds = np.arange(2000)
    mask = kept(0.4, seeds, (8, 8, 16))
    pairs = {
        "neighbouring examples": (mask[1:], mask[:-1]),
        "salts": (mask, kept(0.4, seeds, (8, 8, 16), salt=1)),
        "distant seeds": (mask, kept(0.4, seeds + 2**20, (8, 8, 16))),
        "a seed that equals a salt": (kept(0.4, [5], (10**5,), 7), kept(0.4, [7], (10**5,), 5)),
        "channels": (mask[..., 1:], mask[..., :-1]),
        "rows": (mask[:, 1:], mask[:, :-1]),
        "columns": (mask[:, :, 1:], mask[:, :, :-1]),
        "blocks of 64": (mask.reshape(2000, 16, 64)[:, 1:], mask.reshape(2000, 16, 64)[:, :-1]),
    }
    for name, (a, b) in pairs.items():
        assert abs(correlation(a, b)) < 4, name


@settings(deadline=None, max_examples=20)
@given(order=st.permutations(range(8)))
def test_the_mask_of_an_example_does_not_depend_on_its_position(order):
    seeds = np.array([7, 7 + 2**31, 1, 2, 3, 4, 5, 6], np.uint32)
    assert np.array_equal(kept(0.5, seeds[order], (5, 3)), kept(0.5, seeds, (5, 3))[order])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dropout_scales_kept_elements(dtype):
    x = np.random.default_rng(0).normal(size=(8, 4, 4, 32)).astype(dtype)
    layer = Dropout(0.3, salt=0)
    with pytest.raises(ValueError, match="call the model in dropout_seeds"):
        layer(x)
    with dropout_seeds(np.arange(8, dtype=np.uint32)):
        y = np.asarray(quick.jit(layer)(x))
    assert y.dtype == dtype
    expected = (x.astype(np.float32) * np.float32(1 / 0.7)).astype(dtype)
    np.testing.assert_array_equal(y[y != 0], expected[y != 0])
    assert 0.6 < np.mean(y != 0) < 0.8
    layer.deterministic = True
    assert layer(x) is x


def test_dropout_rate_zero_is_the_identity_and_wrong_rates_are_refused():
    x = jnp.ones((2, 3))
    assert Dropout(0.0, salt=0)(x) is x
    for rate in (1.0, -0.1, float("nan")):
        with pytest.raises(UserError, match="rate"):
            Dropout(rate, salt=0)


def gelu_float64(x):
    return x * stats.norm.cdf(x), stats.norm.cdf(x) + x * stats.norm.pdf(x)


def silu_float64(x):
    logistic = 1 / (1 + np.exp(-x))
    return x * logistic, logistic * (1 + x * (1 - logistic))


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 4e-3)])
@pytest.mark.parametrize(("ours", "exact"), [(gelu, gelu_float64), (silu, silu_float64)])
def test_activations_and_their_gradients_equal_float64(ours, exact, dtype, tolerance):
    x, dy = (np.linspace(*ends, 4801).astype(dtype) for ends in ((-12, 12), (1, 3)))

    @jax.jit
    def run(x, dy):
        y, pullback = jax.vjp(ours, x)
        return y, *pullback(dy)

    y, dx = run(x, dy)
    assert y.dtype == dx.dtype == dtype
    value, slope = exact(np.asarray(x, np.float64))
    np.testing.assert_allclose(np.float64(y), value, tolerance, tolerance)
    np.testing.assert_allclose(np.float64(dx), slope * np.float64(dy), tolerance, tolerance)


@pytest.mark.parametrize("activation", [gelu, silu])
def test_activations_save_only_their_input(activation):
    x = jnp.ones((4, 4), jnp.bfloat16)
    (kept,) = jax.tree.leaves(jax.vjp(activation, x)[1])
    assert kept.dtype == x.dtype and np.array_equal(kept, x)


@quick.jit
def pool_and_gradient(x, dy):
    y, pullback = jax.vjp(max_pool, x)
    return y, *pullback(dy)


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 5, 7, 2), (3, 2, 2, 1)])
def test_max_pool_and_its_gradient_equal_the_reduction(shape):
    rng = np.random.default_rng(0)
    x = rng.permutation(np.prod(shape)).reshape(shape).astype(np.float32)
    batch, height, width, channels = shape
    halves = batch, height // 2, width // 2, channels
    even = x[:, : 2 * halves[1], : 2 * halves[2]]
    right = even.reshape(batch, halves[1], 2, halves[2], 2, channels).max((2, 4))
    dy = rng.normal(size=halves).astype(np.float32)
    y, dx = pool_and_gradient(x, dy)
    assert np.array_equal(y, right)
    spread = [values.repeat(2, 1).repeat(2, 2) for values in (right, dy)]
    expected = np.zeros(shape)
    expected[:, : 2 * halves[1], : 2 * halves[2]] = np.where(even == spread[0], spread[1], 0)
    np.testing.assert_allclose(dx, expected)


def test_max_pool_shares_the_gradient_of_a_tie():
    _, dx = pool_and_gradient(np.zeros((1, 2, 2, 1), np.float32), np.ones((1, 1, 1, 1), np.float32))
    np.testing.assert_allclose(dx, np.full((1, 2, 2, 1), 0.25))
