"""Every path against a float64 reference, inside every transformation, and the choice of a path."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolution_reference import convolve, error, random_operands
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from flaxcifar import ops
from flaxcifar.errors import UserError
from flaxcifar.ops import build, onednn

NHWC = ("NHWC", "HWIO", "NHWC")
TOLERANCE = {"float32": 3e-5, "bfloat16": 8e-3}

# x, kernel, and what differs from a SAME convolution with stride 1.
CASES = {
    "winograd 4": ((6, 15, 12, 16), (3, 3, 16, 24), {}),
    "winograd 4, odd channels": ((4, 16, 16, 19), (3, 3, 19, 37), dict(padding=((0, 2), (1, 0)))),
    "winograd 3": ((18, 5, 6, 16), (3, 3, 16, 24), {}),
    "winograd 3, map 3x3": ((64, 3, 3, 19), (3, 3, 19, 37), {}),
    "winograd 2, map 2x2": ((64, 2, 2, 48), (3, 3, 48, 80), {}),
    "map 2x2": ((5, 2, 2, 20), (3, 3, 20, 8), {}),
    "map 1x1": ((5, 1, 1, 20), (3, 3, 20, 8), {}),
    "stride 2": ((3, 9, 8, 5), (3, 3, 5, 7), dict(strides=(2, 2))),
    "stride 2, asymmetric": (
        (3, 8, 9, 4),
        (3, 3, 4, 6),
        dict(strides=(2, 1), padding=((0, 1), (2, 0))),
    ),
    "1x1": ((3, 5, 6, 4), (1, 1, 4, 6), {}),
    "1x1, stride 2": ((3, 8, 7, 4), (1, 1, 4, 6), dict(strides=(2, 2))),
    "2x2": ((3, 7, 6, 3), (2, 2, 3, 24), dict(padding="VALID")),
    "5x3, VALID": ((2, 11, 9, 3), (5, 3, 3, 4), dict(padding="VALID", strides=(2, 3))),
    "groups": ((2, 6, 5, 8), (3, 3, 4, 6), dict(groups=2)),
    "dilation": ((2, 9, 8, 4), (3, 3, 4, 6), dict(dilation=(2, 1))),
}


def same(x, kernel, **options):
    return ops.convolution(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC, **options)


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients(path, case):
    shape, kernel_shape, options = CASES[case]

    @jax.jit
    def run(x, kernel, dy):
        def call(x, kernel):
            return ops.convolution(
                x,
                kernel,
                options.get("strides", (1, 1)),
                options.get("padding", "SAME"),
                rhs_dilation=options.get("dilation"),
                dimension_numbers=NHWC,
                feature_group_count=options.get("groups", 1),
            )

        y, pullback = jax.vjp(call, x, kernel)
        return y, *pullback(dy)

    for dtype in ["float32"] if path == "xla" else TOLERANCE:
        x, kernel, dy = random_operands(shape, kernel_shape, dtype)
        right = convolve(x, kernel, dy, **options)
        for result, wanted in zip(run(x, kernel, dy(right[0].shape)), right, strict=True):
            assert result.dtype == dtype
            assert error(result, wanted) < TOLERANCE[dtype]


def test_precision_highest_is_more_exact(path):
    x, kernel, dy = random_operands((4, 16, 16, 64), (3, 3, 64, 16))
    right = convolve(x, kernel, dy)[0]
    assert error(same(x, kernel, precision="highest"), right) < 1e-6
    assert error(same(x, kernel, precision=jax.lax.Precision.HIGHEST), right) < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        dict(dimension_numbers=("NCHW", "OIHW", "NCHW")),
        dict(dimension_numbers=NHWC, lhs_dilation=(2, 1), padding=((4, 4), (4, 4))),
        dict(dimension_numbers=NHWC, padding=((-1, 1), (0, 0))),
        dict(dimension_numbers=NHWC, preferred_element_type=jnp.float64),
        dict(dimension_numbers=NHWC, dtype=jnp.float16),
    ],
)
def test_other_forms_go_to_xla(path, options):
    options = dict(options)
    dtype, padding = options.pop("dtype", jnp.float32), options.pop("padding", "VALID")
    x, kernel = jnp.ones((4, 4, 4, 4), dtype), jnp.ones((4, 4, 4, 4), dtype)
    with jax.enable_x64(True):
        result = ops.convolution(x, kernel, (1, 1), padding, **options)
        right = jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, **options)
    assert result.dtype == right.dtype
    np.testing.assert_array_equal(result, right)


def test_nnx_conv_takes_it(path):
    layers = [
        nnx.Conv(3, 8, (3, 3), strides=2, rngs=nnx.Rngs(0), conv_general_dilated=function)
        for function in (ops.convolution, jax.lax.conv_general_dilated)
    ]
    x = jax.random.normal(jax.random.key(0), (2, 5, 8, 8, 3))
    assert error(*(layer(x) for layer in layers)) < 1e-6


OPERANDS = random_operands((16, 8, 8, 16), (3, 3, 16, 16))[:2]


def loss(kernel, x):
    return jnp.sum(same(x, kernel) ** 2)


def gradient(kernel, x):
    return jax.grad(loss)(kernel, x)


def test_scan(path):
    x, kernel = OPERANDS
    parts = jnp.reshape(x, (2, 8, 8, 8, 16))

    @jax.jit
    def run(kernel):
        return jax.lax.scan(lambda sum, x: (sum + gradient(kernel, x), None), 0 * kernel, parts)[0]

    assert error(run(kernel), gradient(kernel, x)) < 1e-5


def test_vmap(path):
    x, kernel = OPERANDS
    parts, kernels = jnp.reshape(x, (2, 8, 8, 8, 16)), jnp.stack([kernel, 2 * kernel])
    each = jax.vmap(jax.grad(loss, (0, 1)), (None, 0))(kernel, parts)  # gradients per part
    both = jax.vmap(jax.grad(loss, (0, 1)))(kernels, parts)
    for n in range(2):
        for got, right in zip(each, jax.grad(loss, (0, 1))(kernel, parts[n]), strict=True):
            assert error(got[n], right) < 1e-5
        for got, right in zip(both, jax.grad(loss, (0, 1))(kernels[n], parts[n]), strict=True):
            assert error(got[n], right) < 1e-5
    over = jax.grad(lambda kernel: jnp.sum(jax.vmap(loss, (None, 0))(kernel, parts)))(kernel)
    assert error(over, gradient(kernel, x)) < 1e-5


def test_pmap_over_eight_devices(path):
    x, kernel = OPERANDS
    step = jax.pmap(
        lambda kernel, x: jax.lax.psum(gradient(kernel, x), "batch"),
        axis_name="batch",
        in_axes=(None, 0),
        out_axes=None,
    )
    assert error(step(kernel, x.reshape(8, 2, 8, 8, 16)), gradient(kernel, x)) < 1e-5


def test_shard_map_sums_the_kernels_gradient(path):
    x, kernel = OPERANDS
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    # Autodiff inside shard_map sums the gradient of what every device shares.
    step = jax.shard_map(
        gradient,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("batch")),
        out_specs=PartitionSpec(),
    )
    assert error(jax.jit(step)(kernel, x), gradient(kernel, x)) < 1e-5


def test_same_result_every_time(path):
    x, kernel = OPERANDS
    run = jax.jit(jax.grad(loss, (0, 1)))
    first = run(kernel, x)
    for _ in range(3):
        for a, b in zip(first, run(kernel, x), strict=True):
            np.testing.assert_array_equal(a, b)


@functools.cache
def train(path, steps=6):
    """Returns the losses of a small network on a fixed batch."""
    x = jax.random.normal(jax.random.key(0), (16, 16, 16, 3))
    labels = jnp.arange(16) % 4
    keys = jax.random.split(jax.random.key(1), 3)
    shapes = (3, 3, 3, 16), (3, 3, 16, 16), (16 * 16 * 16, 4)
    parameters = [0.1 * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]

    def loss(parameters):
        h = x
        for kernel in parameters[:2]:
            h = jax.nn.relu(same(h, kernel))
        logits = h.reshape(16, -1) @ parameters[2]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(16), labels])

    @jax.jit
    def run(parameters):
        def step(parameters, _):
            value, gradients = jax.value_and_grad(loss)(parameters)
            return [p - 0.02 * g for p, g in zip(parameters, gradients, strict=True)], value

        return jax.lax.scan(step, parameters, length=steps)[1]

    with ops.using(path):
        return np.asarray(run(parameters))


def test_training_curves_agree(path):
    losses, right = train(path), train("xla")
    assert right[-1] < 0.7 * right[0]
    np.testing.assert_allclose(losses, right, rtol=2e-4)


def test_unknown_path():
    with pytest.raises(UserError, match="did you mean 'onednn'"):
        ops.resolve("onednnn")


def test_missing_path_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(build, "_location", lambda package: None)
    with pytest.raises(UserError, match=r'onednn is missing.*pip install -e "\.\[cpu\]"'):
        ops.resolve("onednn")
    assert ops.available() == ("jax", "xla")
    assert ops.resolve("auto") == "jax"


def test_auto_goes_on_without_a_working_compiler(monkeypatch, capsys):
    def fail():
        raise UserError("the convolution backend onednn does not compile: no space left")

    monkeypatch.setattr(onednn, "load", fail)
    monkeypatch.setattr(build, "missing", lambda: None)
    assert ops.resolve("auto") == "jax"
    assert "no space left; using the backend jax instead" in capsys.readouterr().err


def test_a_gpu_keeps_xlas_convolution(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert ops.resolve("auto") == "xla"
    with pytest.raises(UserError, match="it is for CPUs, and JAX runs on gpu"):
        ops.resolve("jax")


def test_the_backend_holds_inside_the_context_only():
    kernel, x = jnp.ones((3, 3, 4, 4)), jnp.ones((2, 8, 8, 4))

    def traced():
        return str(jax.make_jaxpr(lambda x: same(x, kernel))(x))

    outside = traced()
    with ops.using("jax"):
        inside = traced()
    assert inside != outside == traced()
