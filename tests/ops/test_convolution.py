"""Every backend against a float64 reference, inside every transformation, and their selection."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
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


# In bfloat16 a case for each algorithm; float32 covers their variants.
HALF = ("winograd 4, odd channels", "map 2x2", "stride 2, asymmetric", "1x1, stride 2", "groups")


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients(path, case):
    shape, kernel_shape, options = CASES[case]

    @quick.jit
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

    every = path == "onednn"  # its algorithms depend on the dtype, and compile quickly
    for dtype in TOLERANCE if every or (path == "jax" and case in HALF) else ["float32"]:
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
    x = kernel = jax.ShapeDtypeStruct((4, 4, 4, 4), dtype)

    def traced(function):
        call = functools.partial(function, window_strides=(1, 1), padding=padding, **options)
        return str(jax.make_jaxpr(call)(x, kernel))

    with jax.enable_x64(True):
        assert traced(ops.convolution) == traced(jax.lax.conv_general_dilated)


def test_nnx_conv_takes_it(path):
    def kernel(key, shape, dtype, out_sharding=None):
        return jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)

    options = dict(strides=2, kernel_init=kernel, rngs=nnx.Rngs(0))
    layers = [
        nnx.Conv(3, 8, (3, 3), conv_general_dilated=function, **options)
        for function in (ops.convolution, jax.lax.conv_general_dilated)
    ]
    x = np.random.default_rng(1).normal(size=(2, 5, 8, 8, 3)).astype(np.float32)
    assert error(*(quick.jit(layer)(x) for layer in layers)) < 1e-6


X, KERNEL, _ = random_operands((16, 8, 8, 16), (3, 3, 16, 16))


def loss(kernel, x):
    return jnp.sum(same(x, kernel) ** 2) / 2


def gradient(kernel, x):
    return jax.grad(loss)(kernel, x)


@functools.cache
def exact_gradients(n=None, scale=1):
    """Returns the gradients of `loss` in float64: kernel's and x's, of everything or one half."""
    x = X if n is None else X.reshape(2, 8, 8, 8, 16)[n]
    kernel = scale * KERNEL
    y = convolve(x, kernel, np.zeros)[0]
    _, dx, dkernel = convolve(x, kernel, lambda _: y)
    return dkernel, dx


def test_scan(path):
    @quick.jit
    def run(kernel, parts):
        return jax.lax.scan(lambda sum, x: (sum + gradient(kernel, x), None), 0 * kernel, parts)[0]

    assert error(run(KERNEL, X.reshape(2, 8, 8, 8, 16)), exact_gradients()[0]) < 1e-5


def test_vmap(path):
    @quick.jit
    def run(kernel, kernels, parts):
        each = jax.vmap(jax.grad(loss, (0, 1)), (None, 0))(kernel, parts)  # gradients per part
        both = jax.vmap(jax.grad(loss, (0, 1)))(kernels, parts)
        over = jax.grad(lambda kernel: jnp.sum(jax.vmap(loss, (None, 0))(kernel, parts)))(kernel)
        return each, both, over

    kernels = np.stack([KERNEL, 2 * KERNEL])
    each, both, over = run(KERNEL, kernels, X.reshape(2, 8, 8, 8, 16))
    for n in range(2):
        for got, right in zip(each, exact_gradients(n), strict=True):
            assert error(got[n], right) < 1e-5
        for got, right in zip(both, exact_gradients(n, n + 1), strict=True):
            assert error(got[n], right) < 1e-5
    assert error(over, exact_gradients()[0]) < 1e-5


def test_pmap_over_eight_devices(path):
    step = jax.pmap(
        lambda kernel, x: jax.lax.psum(gradient(kernel, x), "batch"),
        axis_name="batch",
        in_axes=(None, 0),
        out_axes=None,
    )
    assert error(step(KERNEL, X.reshape(8, 2, 8, 8, 16)), exact_gradients()[0]) < 1e-5


def test_shard_map_sums_the_gradient_of_the_kernel(path):
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    # Autodiff inside shard_map sums the gradient of a replicated value.
    step = jax.shard_map(
        gradient,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("batch")),
        out_specs=PartitionSpec(),
    )
    assert error(quick.jit(step)(KERNEL, X), exact_gradients()[0]) < 1e-5


def test_same_result_every_time(path):
    run = quick.jit(jax.grad(loss, (0, 1)))
    first = run(KERNEL, X)
    for _ in range(3):
        for a, b in zip(first, run(KERNEL, X), strict=True):
            np.testing.assert_array_equal(a, b)


@functools.cache
def train(path, steps=6):
    """Returns the losses of a small network on a fixed batch."""
    rng = np.random.default_rng(0)
    shapes = (16, 8, 8, 3), (3, 3, 3, 16), (3, 3, 16, 16), (8 * 8 * 16, 4)
    x, *parameters = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    parameters = [0.1 * parameter for parameter in parameters]
    labels = np.arange(16) % 4

    def loss(parameters):
        h = x
        for kernel in parameters[:2]:
            h = jax.nn.relu(same(h, kernel))
        logits = h.reshape(16, -1) @ parameters[2]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(16), labels])

    @quick.jit
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


def test_unknown_backend():
    with pytest.raises(UserError, match="did you mean 'onednn'"):
        ops.resolve("onednnn")


def test_missing_backend_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(build, "_location", lambda package: None)
    with pytest.raises(UserError, match=r'onednn is not available.*pip install -e "\.\[cpu\]"'):
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
    with pytest.raises(UserError, match="it supports CPUs only, and JAX runs on gpu"):
        ops.resolve("jax")


def test_the_backend_holds_inside_the_context_only():
    kernel, x = jnp.ones((3, 3, 4, 4)), jnp.ones((2, 8, 8, 4))

    def traced():
        return str(jax.make_jaxpr(lambda x: same(x, kernel))(x))

    outside = traced()
    with ops.using("jax"):
        inside = traced()
    assert inside != outside == traced()
