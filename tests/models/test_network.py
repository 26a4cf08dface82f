"""Networks as pure functions: parameters, statistics, freezing, dtypes, devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from flax import linen as nn
from flax import nnx

from flaxcifar.devices import parallel
from flaxcifar.devices.parallel import AXIS
from flaxcifar.errors import UserError
from flaxcifar.models import MODELS
from flaxcifar.models.layers import BatchNorm, Conv, Head
from flaxcifar.models.network import Network

SHAPE = (32, 32, 3)
SMALL = {
    "vgg16": dict(name="vgg16", width=4),
    "resnet": dict(name="resnet", widths=(4, 8, 8, 8)),
    "crcv": dict(name="crcv"),
}


def make(spec, classes=10, shape=SHAPE, dtype=jnp.float32, axis_name=None):
    return Network.create(lambda rngs: MODELS.call(spec, classes, shape, dtype, axis_name, rngs))


def create(spec, **options):
    network, _ = make(spec, **options)
    return network, *quick.arrays(network)


@functools.cache
def small(name):
    return create(SMALL[name])


def batch(size=8, seed=0):
    images = np.random.default_rng(seed).normal(size=(size, *SHAPE)).astype(np.float32)
    return images, np.arange(100, 100 + size, dtype=np.uint32)


@functools.partial(quick.jit, static_argnums=0, static_argnames=("train", "frozen"))
def apply(network, params, stats, images, seeds, train=True, frozen=frozenset()):
    return network.apply(params, stats, images, seeds, train=train, frozen=frozen)


def count(arrays):
    return sum(int(np.prod(shape)) for _, shape in arrays)


@pytest.mark.parametrize(
    "spec, classes, total, trained",
    [
        (dict(name="vgg16"), 100, 15_047_588, 15_038_116),
        (dict(name="vgg16"), 10, 15_001_418, 15_001_418 - 9_472),
        (dict(name="resnet"), 100, 46_203_236, 46_179_940),
    ],
)
def test_parameter_counts_equal_those_of_the_originals(spec, classes, total, trained):
    network, _ = make(spec, classes)
    assert count(network.param_shapes) == trained
    assert count(network.param_shapes) + count(network.stat_shapes) == total


def test_layers_have_the_names_that_patterns_and_checkpoints_use():
    _, params, stats = small("vgg16")
    assert {"stage1/conv1/kernel", "stage5/norm3/scale", "dense/linear/bias"} <= params.keys()
    assert {"stage1/norm1/mean", "dense/norm/var"} <= stats.keys()
    _, params, _ = small("resnet")
    assert {"stem/conv/kernel", "stage4/block2/shortcut/kernel"} <= params.keys()
    for name in SMALL:
        assert {"head/kernel", "head/bias"} <= small(name)[1].keys()


def test_initial_parameters_depend_on_the_seed_alone():
    _, init = make(SMALL["crcv"])
    (params, _), (again, _), (other, _) = init(3), init(3), init(4)
    for path, value in params.items():
        assert np.array_equal(value, again[path])
        assert np.array_equal(value, other[path]) != path.endswith("kernel")
    kernels = [np.asarray(v).ravel() for k, v in params.items() if k.endswith("kernel")]
    for n, kernel in enumerate(kernels):
        for other in kernels[:n]:
            size = min(kernel.size, other.size)
            assert abs(np.corrcoef(kernel[:size], other[:size])[0, 1]) < 4 / np.sqrt(size)


def test_a_network_is_hashable_and_equal_to_its_like():
    network, *_ = create(SMALL["crcv"])
    assert hash(network) == hash(small("crcv")[0]) and network == small("crcv")[0]
    assert network != small("vgg16")[0]


def test_training_updates_every_statistic_and_evaluation_none():
    for name in SMALL:
        network, params, stats = small(name)
        images, seeds = batch()
        _, after = apply(network, params, stats, images, seeds)
        assert after.keys() == stats.keys()
        assert not any(np.array_equal(after[path], stats[path]) for path in stats)
        logits, after = apply(network, params, stats, images, None, train=False)
        assert logits.shape == (8, 10)
        for path in stats:
            assert np.array_equal(after[path], stats[path])


def test_dropout_depends_on_the_seeds_and_not_on_the_position():
    network, params, stats = small("resnet")
    images, seeds = batch()
    logits, _ = apply(network, params, stats, images, seeds)
    again, _ = apply(network, params, stats, images, seeds)
    other, _ = apply(network, params, stats, images, seeds + 1)
    swapped, _ = apply(network, params, stats, images[::-1], seeds[::-1])
    assert np.array_equal(logits, again)
    assert np.abs(logits - other).max() > 0.01
    np.testing.assert_allclose(swapped[::-1], logits, rtol=1e-3, atol=1e-4)


def paths_under(params, *prefixes):
    return frozenset(path for path in params if path.startswith(prefixes))


def test_a_frozen_block_stays_in_evaluation_mode():
    network, params, stats = small("vgg16")
    images, seeds = batch()
    frozen = paths_under(params, "stage1/", "stage2/norm1/", "stage3/conv1/")
    _, after = apply(network, params, stats, images, seeds, frozen=frozen)
    for path in stats:
        # Only a convolution of stage3 is frozen, so its BatchNorm trains.
        still = path.startswith(("stage1/", "stage2/norm1/"))
        assert np.array_equal(after[path], stats[path]) == still


def stage1_output(frozen, seeds):
    """Returns statistics of the BatchNorm after stage 1 of the VGG, which depend on its output."""
    network, params, stats = small("vgg16")
    _, after = apply(network, params, stats, batch()[0], seeds, frozen=frozen)
    return np.asarray(after["stage2/norm1/mean"])


def test_dropout_inside_a_frozen_block_is_off():
    params = small("vgg16")[1]
    _, seeds = batch()
    whole = paths_under(params, "stage1/")
    part = whole - {"stage1/conv2/bias"}
    assert np.array_equal(stage1_output(whole, seeds), stage1_output(whole, seeds + 1))
    for frozen in (part, frozenset()):
        assert not np.array_equal(stage1_output(frozen, seeds), stage1_output(frozen, seeds + 1))


def test_freezing_everything_is_evaluation():
    network, params, stats = small("crcv")
    images, seeds = batch()
    logits, after = apply(network, params, stats, images, seeds, frozen=frozenset(params))
    expected, _ = apply(network, params, stats, images, None, train=False)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert all(np.array_equal(after[path], stats[path]) for path in stats)


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_keeps_parameters_statistics_and_logits_float32(name):
    network, params, stats = create(SMALL[name], dtype=jnp.bfloat16)
    images, seeds = batch()
    text = str(jax.make_jaxpr(lambda p: network.apply(p, stats, images, seeds, train=True))(params))
    convolutions = [line for line in text.splitlines() if "conv_general_dilated[" in line]
    assert convolutions and all(":bf16[" in line for line in convolutions)
    logits, after = apply(network, params, stats, images, seeds)
    exact, _ = apply(small(name)[0], params, stats, images, seeds)
    assert {x.dtype for x in [logits, *params.values(), *after.values()]} == {np.dtype(np.float32)}
    assert np.corrcoef(logits.ravel(), exact.ravel())[0, 1] > 0.97
    # Not rounded to bfloat16 on the way.
    assert np.any(logits != logits.astype(jnp.bfloat16).astype(jnp.float32))
    assert not np.array_equal(logits, exact)


def test_any_number_of_devices_computes_the_same():
    network, params, stats = create(SMALL["crcv"], axis_name=AXIS)
    images, seeds = batch(16)

    def step(params, stats, batch):
        def loss_fn(params):
            logits, after = network.apply(params, stats, *batch, train=True)
            return jnp.mean(logits**2), (logits, after)

        grads, (logits, after) = jax.grad(loss_fn, has_aux=True)(params)
        gathered = jax.lax.all_gather(logits, AXIS, tiled=True)
        return jax.lax.pmean(grads, AXIS), after, gathered

    results = []
    for devices in (1, 4):
        chosen = jax.devices()[:devices]
        run = quick.jit(parallel.jitted(step, replicated=2, batch_axis=0, devices=chosen))
        arrays = parallel.replicate((params, stats), chosen)
        results.append(jax.device_get(run(*arrays, (images, seeds))))
    (grads, after, logits), (grads4, after4, logits4) = results
    np.testing.assert_allclose(logits4, logits, rtol=1e-3, atol=1e-3)
    for path in stats:
        np.testing.assert_allclose(after4[path], after[path], rtol=1e-4, atol=1e-6)
    for path in ("head/kernel", "stage3/conv1/kernel"):
        np.testing.assert_allclose(grads4[path], grads[path], rtol=0.02, atol=2e-4)


def test_gradients_of_some_parameters_inside_scan_equal_those_step_by_step():
    network, params, stats = small("crcv")
    trained = {path: value for path, value in params.items() if path.startswith("head/")}
    frozen = frozenset(params) - trained.keys()
    images, seeds = np.stack([batch(4)[0], batch(4, 1)[0]]), np.stack([batch(4)[1]] * 2)

    def step(carry, batch):
        trained, stats = carry

        def loss_fn(trained):
            logits, after = network.apply(
                {**params, **trained}, stats, *batch, train=True, frozen=frozen
            )
            return jnp.mean(logits**2), after

        grads, stats = jax.grad(loss_fn, has_aux=True)(trained)
        return ({path: trained[path] - 0.1 * grads[path] for path in trained}, stats), None

    carry, run = (trained, stats), quick.jit(step)
    scanned, _ = quick.jit(lambda carry: jax.lax.scan(step, carry, (images, seeds)))(carry)
    for n in range(2):
        carry, _ = run(carry, (images[n], seeds[n]))
    for path in trained:
        assert not np.array_equal(carry[0][path], trained[path])
        np.testing.assert_allclose(scanned[0][path], carry[0][path], rtol=1e-4, atol=1e-6)


class Listed(nnx.Module):
    """A user's model that keeps its layers in a list."""

    def __init__(self, rngs):
        self.layers = nnx.List([Conv(3, 4, (3, 3), rngs=rngs)])
        self.norm = BatchNorm(4, dtype=jnp.float32, axis_name=None, rngs=rngs)
        self.head = Head(4, 2, rngs)

    def __call__(self, x):
        return self.head(self.norm(self.layers[0](x)).mean((1, 2)))


def test_lists_of_layers_are_numbered():
    network, _ = Network.create(Listed)
    params, stats = quick.arrays(network)
    assert "layers/0/kernel" in params
    logits, after = apply(network, params, stats, np.ones((2, 4, 4, 3), np.float32), None)
    assert logits.shape == (2, 2) and after.keys() == stats.keys()


def test_larger_images_and_images_that_are_too_small():
    network, params, stats = create(SMALL["vgg16"], shape=(64, 64, 3))
    assert params["dense/linear/kernel"].shape == (4 * 32, 32)
    logits = jax.eval_shape(
        lambda x: network.apply(params, stats, x, None, train=False)[0], jnp.ones((2, 64, 64, 3))
    )
    assert logits.shape == (2, 10)
    for name, least in (("vgg16", 32), ("crcv", 8)):
        with pytest.raises(UserError, match=f"at least {least} x {least}"):
            create(SMALL[name], shape=(least - 1, least, 3))


def test_wrong_keywords_name_the_right_ones():
    with pytest.raises(UserError, match="size must be one of slim, heavy, got 'big'"):
        create(dict(name="crcv", size="big"))
    with pytest.raises(UserError, match="dropout must be a number at least 0"):
        create(dict(name="resnet", dropout=1.5))


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(2)(jnp.mean(images, axis=(1, 2)))


def bridged(rngs):
    return nnx.bridge.lazy_init(nnx.bridge.ToNNX(LinenNet(), rngs=rngs), jnp.zeros((1, *SHAPE)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda rngs: LinenNet(), "must be an nnx.Module, got .*LinenNet: write Linen modules"),
        (bridged, "to_nnx__rngs/.* is RngCount: write Linen modules, .*as nnx modules"),
    ],
)
def test_what_is_no_plain_nnx_model_is_refused_with_a_remedy(build, message):
    with pytest.raises(UserError, match=message):
        Network.create(build)
