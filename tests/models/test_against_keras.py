import jax
import jax.numpy as jnp
import keras_models
import numpy as np
import optax
import pytest

from flaxcifar.models import MODELS
from flaxcifar.models.crcv import SIZES
from flaxcifar.models.network import Network

CLASSES = 100
# As cifar-vgg has it, nearly: Keras would round 5e-4 to float32.
L2 = 2.0**-11
# Low, or the VGG would be too chaotic even for float64; a power of two for the same reason.
RATE = 2.0**-13
FULL = {
    "vgg16": (dict(name="vgg16"), lambda: keras_models.vgg16(CLASSES)),
    "resnet": (dict(name="resnet"), lambda: keras_models.resnet(CLASSES)),
    "slim": (dict(name="crcv"), lambda: keras_models.crcv(CLASSES, SIZES["slim"])),
    "heavy": (
        dict(name="crcv", size="heavy"),
        lambda: keras_models.crcv(CLASSES, SIZES["heavy"]),
    ),
}
# Narrow, for speed, and without dropout.
STAGES = ((4,), (8,), (8, 8), (16,))
NARROW = {
    "vgg16": (
        dict(name="vgg16", width=4, dropout=0.0),
        lambda: keras_models.vgg16(CLASSES, 4, L2, 0.0),
    ),
    "resnet": (
        dict(name="resnet", widths=(4, 8, 8, 16), dropout=0.0),
        lambda: keras_models.resnet(CLASSES, (4, 8, 8, 16), 0.0),
    ),
    "slim": (
        dict(name="crcv", dropout=0.0),
        lambda: keras_models.crcv(CLASSES, STAGES, 0.0),
    ),
}


@pytest.fixture
def float64():
    """Makes Keras and JAX compute in float64.

    These networks magnify a rounding error a thousandfold in a step: in float32, two runs of one
    program that start 1e-7 apart are far apart after 20.
    """
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    with jax.enable_x64(True):
        yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def create(spec, dtype=jnp.float32):
    shape = (32, 32, 3)
    return Network.create(lambda rngs: MODELS.call(spec, CLASSES, shape, dtype, None, rngs), seed=1)


def randomize(arrays, seed=0):
    """Returns arrays that no two layers share; the initial ones are mostly zeros and ones."""
    rng = np.random.default_rng(seed)
    return {
        path: value * rng.uniform(0.8, 1.2, value.shape).astype(np.float32)
        + (0 if path.endswith("kernel") else rng.uniform(0, 0.1, value.shape).astype(np.float32))
        for path, value in arrays.items()
    }


@pytest.mark.parametrize("name", FULL)
def test_the_same_weights_give_the_same_logits(name):
    spec, reference = FULL[name]
    network, params, stats = create(spec)
    params, stats = randomize(params), randomize(stats, 1)
    keras_model = reference()
    keras_models.set_weights(keras_model, {**params, **stats})
    images = np.random.default_rng(2).normal(size=(2, 32, 32, 3)).astype(np.float32)
    expected = np.asarray(keras_model(images, training=False))
    logits, _ = jax.jit(lambda p, s, x: network.apply(p, s, x, None, train=False))(
        params, stats, images
    )
    assert np.abs(expected - expected.mean(0)).max() > 1e-3
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", NARROW)
def test_the_same_start_and_batches_give_the_same_losses(name, float64, monkeypatch):
    monkeypatch.setitem(SIZES, "slim", STAGES)
    spec, reference = NARROW[name]
    network, params, stats = create(spec, jnp.float64)
    params, stats = jax.tree.map(lambda x: x.astype(jnp.float64), (params, stats))
    keras_model = reference()
    keras_models.set_weights(keras_model, {**params, **stats})
    rng = np.random.default_rng(3)
    images = rng.normal(size=(20, 8, 32, 32, 3))
    labels = rng.integers(0, CLASSES, (20, 8)).astype(np.int32)
    expected = keras_models.train(keras_model, images, labels, RATE)
    l2 = L2 if name == "vgg16" else 0.0
    tx = optax.sgd(RATE, momentum=0.875, nesterov=True)

    @jax.jit
    def step(params, stats, opt_state, x, y):
        def loss_fn(params):
            logits, new = network.apply(params, stats, x, None, train=True)
            kernels = (v for k, v in params.items() if k.endswith("kernel") and "head" not in k)
            penalty = l2 * sum(jnp.sum(kernel**2) for kernel in kernels)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return losses.mean() + penalty, new

        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), stats, opt_state, loss

    before = {**params, **stats}
    losses, opt_state = [], tx.init(params)
    for x, y in zip(images, labels, strict=True):
        params, stats, opt_state, loss = step(params, stats, opt_state, x, y)
        losses.append(float(loss))
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    after = {**params, **stats}
    for path, value in keras_models.get_weights(keras_model).items():
        np.testing.assert_allclose(after[path], value, rtol=1e-5, atol=1e-8)
        if path.endswith("kernel"):
            assert np.abs(value - before[path]).max() > 1e-6
