"""Networks against the same networks in Keras: logits, losses and updates."""

import jax
import jax.numpy as jnp
import keras_models
import numpy as np
import optax
import pytest
import quick

from flaxcifar.models import MODELS
from flaxcifar.models.crcv import SIZES
from flaxcifar.models.network import Network

CLASSES = 100
# Close to cifar-vgg's 5e-4, which Keras would round to float32.
L2 = 2.0**-11
# Low, because the VGG would be too chaotic even in float64. A power of two is exact in float32.
RATE = 2.0**-13
STAGES = ((4,), (8,), (8, 8), (16,))
# Narrow for speed. test_network.py counts the parameters of the real networks.
MODELS_OF_BOTH = {
    "vgg16": (dict(name="vgg16", width=4, dropout=0.0), keras_models.vgg16, (4, L2, 0.0)),
    "resnet": (
        dict(name="resnet", widths=(4, 8), dropout=0.0),
        keras_models.resnet,
        ((4, 8), 0.0),
    ),
    "crcv": (dict(name="crcv", dropout=0.0), keras_models.crcv, (STAGES, 0.0)),
}


@pytest.fixture
def float64():
    """Makes Keras and JAX compute in float64.

    These networks amplify a rounding error a thousandfold per step. In float32 two runs of a
    program that start 1e-7 apart differ widely after 20 steps.
    """
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    # Flax keeps the sums of batch normalization in float32.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture(params=MODELS_OF_BOTH)
def both(request, monkeypatch):
    """Returns (network, params, batch_stats, Keras model, image size), in the precision in use."""
    monkeypatch.setitem(SIZES, "slim", STAGES)
    spec, reference, args = MODELS_OF_BOTH[request.param]
    size = 32 if request.param == "vgg16" else 16
    dtype = jnp.zeros(()).dtype

    def build(rngs):
        return MODELS.call(spec, CLASSES, (size, size, 3), dtype, None, rngs)

    network, _ = Network.create(build)
    params, stats = jax.tree.map(lambda x: np.asarray(x, dtype), quick.arrays(network))
    return network, params, stats, reference(CLASSES, *args), size


def randomize(arrays, seed=0):
    """Returns arrays that differ between layers; the initial ones are mostly zeros and ones."""
    rng = np.random.default_rng(seed)
    return {
        path: np.asarray(value) * rng.uniform(0.8, 1.2, value.shape).astype(np.float32)
        + (0 if path.endswith("kernel") else rng.uniform(0, 0.1, value.shape).astype(np.float32))
        for path, value in arrays.items()
    }


def check_logits(network, params, stats, keras_model, size):
    params, stats = randomize(params), randomize(stats, 1)
    keras_models.set_weights(keras_model, {**params, **stats})
    images = np.random.default_rng(2).normal(size=(4, size, size, 3))
    expected = np.asarray(keras_model(images, training=False))
    logits, _ = quick.jit(lambda p, s, x: network.apply(p, s, x, None, train=False))(
        params, stats, images
    )
    assert np.abs(expected - expected.mean(0)).max() > 1e-3
    # The head computes in float32.
    assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_same_weights_give_the_same_logits_losses_and_updates(float64, both):
    network, params, stats, keras_model, size = both
    check_logits(*both)
    keras_models.set_weights(keras_model, {**params, **stats})
    rng = np.random.default_rng(3)
    images = rng.normal(size=(10, 4, size, size, 3))
    labels = rng.integers(0, CLASSES, (10, 4)).astype(np.int32)
    expected = keras_models.train(keras_model, images, labels, RATE)
    tx = optax.sgd(RATE, momentum=0.875, nesterov=True)

    @quick.jit
    def step(params, stats, opt_state, x, y):
        def loss_fn(params):
            logits, new = network.apply(params, stats, x, None, train=True)
            kernels = (v for k, v in params.items() if k.endswith("kernel") and "head" not in k)
            penalty = L2 * sum(jnp.sum(kernel**2) for kernel in kernels)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return losses.mean() + (penalty if keras_model.losses else 0), new

        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), stats, opt_state, loss

    before = {**params, **stats}
    losses, opt_state = [], quick.jit(tx.init)(params)
    for x, y in zip(images, labels, strict=True):
        params, stats, opt_state, loss = step(params, stats, opt_state, x, y)
        losses.append(float(loss))
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    after = {**params, **stats}
    for path, value in keras_models.get_weights(keras_model).items():
        np.testing.assert_allclose(after[path], value, rtol=1e-5, atol=1e-7)
        if path.endswith("kernel"):
            assert np.abs(value - before[path]).max() > 1e-6
