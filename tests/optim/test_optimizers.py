import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick

from flaxcifar.errors import UserError
from flaxcifar.optim.optimizers import optimizer_names
from flaxcifar.optim.param_groups import FROZEN, OwnOptimizer, assign_groups, make_tx


def constant(step):
    return 1.0


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "stage1/conv/kernel": (3, 3, 2, 8),
        "stage1/conv/bias": (8,),
        "stage2/conv/kernel": (3, 3, 8, 8),
        "head/kernel": (8, 3),
        "head/bias": (3,),
    }
    return {
        path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in shapes.items()
    }


def leaves(state):
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]


def run(tx, params, grads, steps=1):
    """Returns parameters and state after `steps`, computed by one program."""

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    def train(params):
        return jax.lax.scan(step, (params, tx.init(params)), length=steps)[0]

    return quick.jit(train)(params)


def first_updates(tx, params, grads):
    """Returns the updates of the first step."""
    return quick.jit(lambda: tx.update(grads, tx.init(params), params)[0])()


@pytest.mark.parametrize("name", optimizer_names())
def test_every_optimizer_trains_and_leaves_frozen_parameters_alone(name):
    params = make_params()
    groups = assign_groups(params, (("stage1", FROZEN), ("head", 0.1)))
    tx = make_tx({"name": name, "learning_rate": 0.1}, constant, groups, gradient_clip=1.0)
    after, state = run(tx, params, make_params(1), steps=2)
    for path, value in params.items():
        assert np.isfinite(after[path]).all()
        assert np.array_equal(after[path], value) == path.startswith("stage1")
    assert not any("stage1" in leaf for leaf in leaves(state))


def test_named_optimizers_equal_optax():
    params, grads = make_params(), make_params(1)
    groups = assign_groups(params, ())
    for spec, reference in [
        ({"name": "sgd", "momentum": 0.9, "nesterov": True}, optax.sgd(0.1, 0.9, True)),
        ({"name": "adam", "eps": 1e-7}, optax.adam(0.1, eps=1e-7)),
        ({"name": "lamb"}, optax.lamb(0.1)),
    ]:
        got, _ = run(make_tx(spec | {"learning_rate": 0.1}, constant, groups), params, grads, 3)
        with jax.numpy_dtype_promotion("standard"):
            want, _ = run(reference, params, grads, 3)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want)


def test_weight_decay_is_for_kernels():
    params = make_params()
    zeros = jax.tree.map(np.zeros_like, params)
    spec = {"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.5}
    after, _ = run(make_tx(spec, constant, assign_groups(params, ())), params, zeros)
    for path, value in params.items():
        decayed = np.asarray(value) * (1 - 0.1 * 0.5) if path.endswith("kernel") else value
        np.testing.assert_allclose(after[path], decayed, rtol=1e-6)


def test_muon_is_for_convolutions_and_sgd_for_the_rest():
    params, grads = make_params(), make_params(1)
    spec = {"name": "muon", "learning_rate": 1.0, "ns_steps": 12, "ns_dtype": "float32"}
    spec |= {"sgd_learning_rate": 0.5}
    tx = make_tx(spec, constant, assign_groups(params, ()))
    updates = first_updates(tx, params, grads)
    kernel = np.asarray(updates["stage2/conv/kernel"], np.float64).reshape(-1, 8)
    values = np.linalg.svd(kernel, compute_uv=False)
    # Newton-Schulz with the usual coefficients lands between about 0.7 and 1.2.
    assert values.min() > 0.6 * values.max()
    # The first update with Nesterov's momentum of 0.9.
    for path in ("head/kernel", "head/bias"):
        gradient = np.asarray(grads[path])
        np.testing.assert_allclose(updates[path], -0.5 * 1.9 * gradient, rtol=1e-6)


@pytest.mark.parametrize("learning_rate", [0.1, 10.0])
def test_decay_takes_its_share_whatever_the_learning_rate(learning_rate):
    params = make_params()
    zeros = jax.tree.map(np.zeros_like, params)
    spec = {"name": "sgd", "learning_rate": learning_rate, "decay": 0.05}
    after, _ = run(make_tx(spec, constant, assign_groups(params, ())), params, zeros)
    for path, value in params.items():
        np.testing.assert_allclose(after[path], 0.95 * np.asarray(value), rtol=1e-5)


def test_decay_and_momentum_are_those_of_pytorch():
    params, grads = make_params(), make_params(1)
    rate, momentum, decay = 0.2, 0.85, 0.01
    spec = dict(name="sgd", learning_rate=rate, momentum=momentum, nesterov=True, decay=decay)
    got, _ = run(make_tx(spec, constant, assign_groups(params, ())), params, grads, 3)
    for path, value in params.items():
        x, buffer = np.asarray(value, np.float64), 0.0
        for _ in range(3):
            gradient = np.asarray(grads[path]) + decay / rate * x
            buffer = momentum * buffer + gradient
            x = x - rate * (gradient + momentum * buffer)
        np.testing.assert_allclose(got[path], x, rtol=1e-5, atol=1e-5)


def test_a_group_may_have_an_optimizer_and_a_schedule_of_its_own():
    params, grads = make_params(), make_params(1)
    own = OwnOptimizer(0, {"name": "sgd", "learning_rate": 3.0}, lambda step: 1.0 - 0.5 * step)
    muon = OwnOptimizer(1, {"name": "muon", "learning_rate": 0.1}, constant)
    groups = assign_groups(params, (("head/bias", own), ("stage.*/kernel", muon), ("stage2", 0.0)))
    tx = make_tx({"name": "sgd", "learning_rate": 1.0}, constant, groups)

    @quick.jit
    def two_updates():
        first, state = tx.update(grads, tx.init(params), params)
        return first, tx.update(grads, state, params)[0]

    updates, gradients = two_updates(), jax.device_get(grads)
    for n, scale in enumerate((3.0, 1.5)):
        found = updates[n]
        np.testing.assert_allclose(found["head/bias"], -scale * gradients["head/bias"], rtol=1e-6)
        np.testing.assert_allclose(found["head/kernel"], -gradients["head/kernel"], rtol=1e-6)
    alone = make_tx(muon.spec, constant, {p: 1.0 for p in params})
    expected = first_updates(alone, params, grads)
    np.testing.assert_allclose(
        updates[0]["stage1/conv/kernel"], expected["stage1/conv/kernel"], rtol=1e-5, atol=1e-7
    )
    assert np.any(updates[0]["stage2/conv/kernel"])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lamb", "muon", "rmsprop"])
def test_a_rate_may_be_an_argument_of_the_compiled_step(name):
    params, grads = make_params(), make_params(1)
    groups = assign_groups(params, ())
    spec = {"name": name, "learning_rate": 0.1}
    spec |= {"momentum": 0.9} if name in ("sgd", "muon", "rmsprop") else {}
    spec |= {"weight_decay": 0.1} if name in ("adamw", "lamb", "muon") else {}
    spec |= {"ns_dtype": "float32"} if name == "muon" else {}

    @quick.jit
    def update(values, params):
        tx = make_tx(spec, constant, groups, values)
        return tx.update(grads, make_tx(spec, constant, groups).init(params), params)[0]

    given = {key: np.float32(0.5 * x) for key, x in spec.items() if isinstance(x, float)}
    got = update(given, params)
    halved = spec | {key: float(x) for key, x in given.items()}
    want = first_updates(make_tx(halved, constant, groups), params, grads)
    for path in params:
        np.testing.assert_allclose(got[path], want[path], rtol=2e-3, atol=1e-5)


def test_groups_have_their_own_rate():
    params, grads = make_params(), make_params(1)
    groups = assign_groups(params, (("head/bias", 0.0), ("head", 0.5)))
    spec = {"name": "sgd", "learning_rate": 0.2}
    updates = first_updates(make_tx(spec, constant, groups), params, grads)
    for path, scale in {"head/bias": 0.0, "head/kernel": 0.5, "stage1/conv/kernel": 1.0}.items():
        expected = -0.2 * scale * np.asarray(grads[path])
        np.testing.assert_allclose(updates[path], expected, rtol=1e-6)


def test_clipping_bounds_the_global_norm_over_all_trained_groups():
    params = make_params()
    groups = assign_groups(params, (("stage1", FROZEN), ("head", 0.5)))
    grads = {
        path: (0 if groups[path] == FROZEN else 100) * np.asarray(value)
        for path, value in make_params(1).items()
    }
    spec = {"name": "sgd", "learning_rate": 1.0}
    tx = make_tx(spec, constant, groups, gradient_clip=2.0)
    raw = {
        path: np.asarray(update, np.float64) / (1.0 if groups[path] == FROZEN else groups[path])
        for path, update in first_updates(tx, params, grads).items()
    }
    norm = np.sqrt(sum(np.sum(update**2) for update in raw.values()))
    assert norm == pytest.approx(2.0, rel=1e-5)


def test_accumulation_equals_the_mean_gradient_and_keeps_the_schedule_in_steps():
    params, groups = make_params(), assign_groups(make_params(), (("stage1", FROZEN),))
    spec = {"name": "sgd", "learning_rate": 1.0}
    schedule = lambda step: jnp.where(step < 2, 1.0, 0.5)  # noqa: E731
    tx = make_tx(spec, schedule, groups, accumulation_steps=2)
    every = [jax.device_get(make_params(n)) for n in range(4)]

    @quick.jit
    def train():
        def step(state, grads):
            updates, state = tx.update(grads, state, params)
            return state, updates

        grads = jax.tree.map(lambda *arrays: np.stack(arrays), *every)
        return jax.lax.scan(step, tx.init(params), grads)

    state, updates = jax.device_get(train())
    total = {path: np.sum(value, axis=0) for path, value in updates.items()}
    assert not any("stage1" in leaf for leaf in leaves(state))
    first, second = ((every[a]["head/bias"] + every[a + 1]["head/bias"]) / 2 for a in (0, 2))
    np.testing.assert_allclose(total["head/bias"], -first - 0.5 * second, rtol=1e-5)
    assert not np.any(total["stage1/conv/kernel"])


def test_patterns_match_whole_paths_of_parameters_and_modules_and_the_first_wins():
    groups = assign_groups(make_params(), (("stage1/conv/bias", 2.0), ("stage[12]", FROZEN)))
    assert groups == {
        "stage1/conv/kernel": FROZEN,
        "stage1/conv/bias": 2.0,
        "stage2/conv/kernel": FROZEN,
        "head/kernel": 1.0,
        "head/bias": 1.0,
    }


@pytest.mark.parametrize("pattern", ["stage", "kernel", "stage3", "conv"])
def test_a_pattern_that_matches_nothing_lists_the_paths(pattern):
    with pytest.raises(UserError, match=f"{pattern}.*stage1/conv/kernel.*head/bias"):
        assign_groups(make_params(), ((pattern, FROZEN),))


def test_freezing_everything_is_an_error():
    with pytest.raises(UserError, match="nothing is left"):
        make_tx({"name": "sgd", "learning_rate": 1.0}, constant, {"a/kernel": FROZEN})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "sdg", "learning_rate": 0.1}, "'sdg'; did you mean 'sgd'.*adam"),
        ({"name": "lbfgs", "learning_rate": 0.1}, "unknown optimizer 'lbfgs'"),
        ({"name": "sgd", "learning_rate": 0.1, "momentun": 0.9}, "did you mean 'momentum'"),
        ({"name": "muon", "learning_rate": 0.1, "beta": 0.9}, "muon.*takes no 'beta'"),
        ({"name": "sgd"}, "needs 'learning_rate'"),
        ({"name": "muon", "momentum": 0.5}, "needs 'learning_rate'"),
        ({"name": "adafactor"}, "needs 'learning_rate'"),
        ({"name": "adadelta", "learning_rate": None}, "rate must be a number at least 0, got None"),
        ({"name": "adam", "learning_rate": "a"}, "rate must be a number at least 0, got 'a'"),
        ({"name": "lamb", "learning_rate": -0.1}, "rate must be a number at least 0, got -0.1"),
        ({"name": "adam", "learning_rate": 0.1, "b1": "x"}, "'adam': b1 must be a number, got 'x'"),
        ({"name": "adam", "learning_rate": 0.1, "nesterov": 1}, "nesterov must be true or false"),
        ({"name": "adam", "learning_rate": 0.1, "mu_dtype": "two"}, "optimizer 'adam': .*'two'"),
        (
            {"name": "sgd", "learning_rate": 1.0, "decay": True},
            "decay must be a number .* got True",
        ),
        ({"name": "sgd", "learning_rate": 0.1, "momentum": 1}, "momentum must be .* below 1"),
        ({"name": "muon", "sgd_momentum": "x"}, "sgd_momentum must be a number"),
        ({"name": "muon", "learning_rate": 0.1, "ns_dtype": "int8"}, "one of bfloat16, float16"),
        ({"name": "muon", "learning_rate": 0.1, "ns_steps": 2.5}, "ns_steps must be an integer"),
    ],
)
def test_bad_names_and_keywords_list_the_good_ones(spec, message):
    with pytest.raises(UserError, match=message):
        make_tx(spec, constant, {"a/kernel": 1.0})
