"""speednet: against Keras' layers, whitening, identity initialisation, residual stages."""

import functools

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import quick
from flax import nnx

from flaxcifar.errors import UserError
from flaxcifar.models import MODELS
from flaxcifar.models.network import Network
from flaxcifar.models.speednet import Stage, dirac, whitening_kernel

SMALL = dict(name="speednet", widths=(8, 16, 16))


def make(spec=SMALL, classes=5, size=32):
    return Network.create(
        lambda rngs: MODELS.call(spec, classes, (size, size, 3), jnp.float32, None, rngs)
    )


def create(spec=SMALL, size=32):
    network, _ = make(spec, size=size)
    return network, *quick.arrays(network)


@functools.partial(quick.jit, static_argnums=0)
def evaluate(network, params, stats, images):
    return network.apply(params, stats, images, None, train=False)[0]


def correlated_images(count=64, size=16, seed=0):
    """Returns noise with correlated neighbouring pixels and channels."""
    noise = np.random.default_rng(seed).normal(size=(count, size + 1, size + 1, 3))
    smooth = noise[:, 1:, 1:] + 0.8 * noise[:, :-1, 1:] + 0.6 * noise[:, 1:, :-1]
    return (smooth @ np.array([[1, 0.7, 0.5], [0, 1, 0.7], [0, 0, 1]])).astype(np.float32)


def keras_speednet(classes, widths, scale):
    """Returns the network built of Keras' layers."""
    layers, gelu = keras.layers, functools.partial(keras.activations.gelu, approximate=False)
    images = x = keras.Input((32, 32, 3))
    x = gelu(layers.Conv2D(24, 2, name="whiten")(x))
    for n, width in enumerate(widths, 1):
        for m in (1, 2):
            name = f"stage{n}_conv{m}"
            x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=name)(x)
            x = layers.MaxPooling2D()(x) if m == 1 else x
            norm = layers.BatchNormalization(scale=False, epsilon=1e-12, name=f"stage{n}_norm{m}")
            x = gelu(norm(x))
    x = layers.Dense(classes, use_bias=False, name="head")(layers.GlobalMaxPooling2D()(x))
    return keras.Model(images, x * scale)


def test_logits_equal_those_of_keras():
    network, params, stats = create()
    rng = np.random.default_rng(0)
    params = {p: rng.normal(size=x.shape, scale=0.2).astype("f4") for p, x in params.items()}
    stats = {p: rng.uniform(0.5, 2, size=x.shape).astype("f4") for p, x in stats.items()}
    model = keras_speednet(5, SMALL["widths"], 1 / 9)
    for layer in model.layers:
        values = {path.rpartition("/")[2]: x for path, x in {**params, **stats}.items()
                  if path.rpartition("/")[0] == layer.name.replace("_", "/")}  # fmt: skip
        order = ("kernel", "bias", "mean", "var")
        if values:
            layer.set_weights([values[key] for key in order if key in values])
    images = rng.normal(size=(6, 32, 32, 3)).astype(np.float32)
    logits = evaluate(network, params, stats, images)
    np.testing.assert_allclose(logits, model(images), rtol=1e-3, atol=1e-4)


def test_dirac_filters_copy_their_input_and_the_others_are_small():
    start = quick.jit(dirac, static_argnums=(1, 2))
    kernel = start(jax.random.key(0), (3, 3, 4, 6), jnp.float32)
    images = np.random.default_rng(0).normal(size=(2, 5, 5, 4)).astype(np.float32)
    dimensions = ("NHWC", "HWIO", "NHWC")
    convolve = functools.partial(
        jax.lax.conv_general_dilated, dimension_numbers=dimensions, precision="highest"
    )
    out = np.asarray(quick.jit(convolve, static_argnums=(2, 3))(images, kernel, (1, 1), "SAME"))
    kernel = np.asarray(kernel)
    np.testing.assert_allclose(out[..., :4], images, rtol=1e-6)
    assert 0 < np.abs(kernel[..., 4:]).max() <= (9 * 4) ** -0.5
    fewer = start(jax.random.key(0), (3, 3, 6, 4), jnp.float32)
    np.testing.assert_array_equal(np.asarray(fewer)[1, 1], np.eye(6, 4))


def test_whitened_patches_are_uncorrelated_and_of_variance_one():
    images = correlated_images()
    kernel = whitening_kernel(images, 2)
    assert kernel.shape == (2, 2, 3, 24)
    patches = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(1, 2))
    out = np.einsum("nhwcij,ijco->nhwo", patches.astype(np.float64), kernel).reshape(-1, 24)
    np.testing.assert_allclose(out[:, 12:], -out[:, :12], atol=1e-5)
    moments = out[:, :12].T @ out[:, :12] / len(out)
    np.testing.assert_allclose(moments, np.eye(12), atol=0.02)


def test_the_whitening_is_initialised_from_training_images():
    network, params, stats = create(size=16)
    fitted = network.fitted(params, stats, correlated_images)
    assert not np.array_equal(fitted["whiten/kernel"], params["whiten/kernel"])
    np.testing.assert_allclose(
        fitted["whiten/kernel"], whitening_kernel(correlated_images(), 2), rtol=1e-4, atol=1e-4
    )
    for path in params.keys() - {"whiten/kernel"}:
        np.testing.assert_array_equal(fitted[path], params[path])


def test_third_and_later_convolutions_are_residual():
    @quick.jit
    def run(x):
        stage = Stage(4, 4, 3, nnx.silu, 0.5, jnp.float32, None, nnx.Rngs(0))
        stage.eval()
        shorter = Stage(4, 4, 2, nnx.silu, 0.5, jnp.float32, None, nnx.Rngs(0))
        shorter.eval()
        for name in ("conv1", "conv2", "norm1", "norm2"):
            nnx.update(getattr(shorter, name), nnx.state(getattr(stage, name)))
        stage.conv3.kernel[...] = jnp.zeros_like(stage.conv3.kernel[...])
        return stage(x), nnx.silu(shorter(x))

    x = np.random.default_rng(0).normal(size=(2, 6, 6, 4)).astype(np.float32)
    found, expected = run(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_head_starts_with_deviation_one_and_logits_are_scaled():
    network, init = make()
    params, stats = init(0)
    np.testing.assert_allclose(np.std(params["head/kernel"]), 1, rtol=1e-5)
    double, _, _ = create(SMALL | {"logit_scale": 2 / 9})
    images = correlated_images(2, 32)
    a, b = (evaluate(n, params, stats, images) for n in (network, double))
    np.testing.assert_allclose(2 * np.asarray(a), b, rtol=1e-5)


def test_it_accepts_several_image_sizes():
    network, params, stats = create()
    for size in (20, 24, 32):
        logits = evaluate(network, params, stats, correlated_images(2, size))
        assert logits.shape == (2, 5) and np.isfinite(logits).all()


@pytest.mark.parametrize(
    ("change", "size", "message"),
    [
        ({"activation": "relu"}, 32, "one of gelu, silu, got 'relu'"),
        ({}, 8, "images of at least 9 x 9"),
    ],
)
def test_bad_arguments_are_refused(change, size, message):
    with pytest.raises(UserError, match=message):
        create(SMALL | change, size=size)
