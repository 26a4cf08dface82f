import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick

from flaxcifar.optim.muon import newton_schulz, orthogonalize_updates

SHAPES = {"a": (3, 3, 4, 8), "b": (3, 3, 4, 8), "c": (3, 3, 8, 8), "d": (1, 1, 4, 16)}


iterate = quick.jit(newton_schulz, static_argnums=1)


def first_updates(tx, grads, params):
    return quick.jit(lambda: tx.update(grads, tx.init(params), params)[0])()


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {key: rng.normal(size=shape).astype(np.float32) for key, shape in SHAPES.items()}


def reference_newton_schulz(x, steps):
    x = x / (np.linalg.norm(x) + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


def reference(params, grads, steps, rate, momentum, normalize, weight_decay):
    """Muon as airbench94_muon has it, a kernel at a time, in float64."""
    params = {key: x.astype(np.float64) for key, x in params.items()}
    buffers = {key: np.zeros_like(x) for key, x in params.items()}
    for n in range(steps):
        for key, x in params.items():
            gradient = grads[n][key].astype(np.float64)
            buffers[key] = momentum * buffers[key] + gradient
            update = gradient + momentum * buffers[key]
            matrix = update.reshape(-1, x.shape[-1]).T
            tall = matrix.shape[0] > matrix.shape[1]
            matrix = reference_newton_schulz(matrix.T if tall else matrix, 3)
            update = (matrix.T if tall else matrix).T.reshape(x.shape)
            scale = x.shape[-1] ** 0.5 / np.linalg.norm(x) if normalize else 1.0
            params[key] = scale * x - rate * (update + weight_decay * x)
    return params


@pytest.mark.parametrize(("normalize", "weight_decay"), [(True, 0.0), (False, 0.0), (False, 0.1)])
def test_updates_equal_those_of_one_kernel_at_a_time_in_float64(normalize, weight_decay):
    params, grads = arrays(), [arrays(seed) for seed in (1, 2, 3)]
    tx = orthogonalize_updates(lambda step: 0.2, 0.6, True, 3, "float32", normalize, weight_decay)

    @quick.jit
    def train(params, grads):
        def step(carry, gradient):
            params, state = carry
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), grads)[0][0]

    now = train(params, jax.tree.map(lambda *arrays: np.stack(arrays), *grads))
    want = reference(params, grads, 3, 0.2, 0.6, normalize, weight_decay)
    for key in params:
        np.testing.assert_allclose(now[key], want[key], rtol=1e-3, atol=1e-4)


def test_bfloat16_is_close_enough():
    params, grads = arrays(), arrays(1)
    updates = {}
    for dtype in ("float32", "bfloat16"):
        tx = orthogonalize_updates(lambda step: 1.0, 0.0, False, 3, dtype, False, 0.0)
        updates[dtype] = first_updates(tx, grads, params)
    for key in params:
        a, b = updates["float32"][key], updates["bfloat16"][key]
        assert b.dtype == jnp.float32
        a, b = np.asarray(a), np.asarray(b)
        assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(a)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("smallest", [1e-1, 1e-6])
def test_iterations_on_the_square_are_those_on_the_matrix(steps, smallest):
    """Badly conditioned matrices included: the square's smallest eigenvalues drown in rounding."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(n, 24)))[0] for n in (24, 216))
    x = (left * np.geomspace(1, smallest, 24)) @ right.T
    got = iterate(x.astype(np.float32), steps)
    np.testing.assert_allclose(got, reference_newton_schulz(x, steps), atol=2e-3)


@pytest.mark.parametrize("shape", [(8, 36), (8, 8), (2, 5, 7)])
def test_singular_values_come_near_one(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = np.asarray(iterate(x, 10))
    values = np.linalg.svd(found, compute_uv=False)
    assert 0.6 < values.min() and values.max() < 1.3
    assert np.all(np.sum(found * x, axis=(-2, -1)) > 0)


def test_a_normalised_kernel_keeps_its_norm():
    params = arrays()
    tx = orthogonalize_updates(lambda step: 0.0, 0.9, True, 3, "bfloat16", True, 0.0)
    updates = first_updates(tx, arrays(1), params)
    after = {key: params[key] + np.asarray(updates[key]) for key in params}
    for key, shape in SHAPES.items():
        assert np.linalg.norm(after[key]) == pytest.approx(shape[-1] ** 0.5, rel=1e-5)


def test_kernels_of_one_shape_share_their_products():
    params = arrays()
    tx = orthogonalize_updates(lambda step: 0.1, 0.9, True, 1, "float32", False, 0.0)
    program = str(jax.make_jaxpr(tx.update)(params, tx.init(params), params))
    # Three products for each of the three shapes; four kernels one by one would need twelve.
    assert program.count("dot_general") == 9
