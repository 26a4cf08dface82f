"""Schedules against Keras, PyTorch's formulas and plain NumPy; the plateau against Keras'."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxcifar.errors import UserError
from flaxcifar.optim import SCHEDULES
from flaxcifar.optim.plateau import Plateau, make_plateau
from flaxcifar.optim.schedules import make_schedule

STEPS_PER_EPOCH = 97  # float division by 97 is not exact in compiled code: stairs must be
TOTAL = 40 * STEPS_PER_EPOCH
STEPS = np.arange(TOTAL + 5)

# One working config of every schedule.
SPECS = {
    "constant": {},
    "exponential": {"decay_rate": 0.9, "transition_epochs": 1},
    "inverse_time": {"decay": 1e-3},
    "step_halving": {"every_epochs": 10},
    "piecewise": {"boundaries_epochs": (10, 20)},
    "cosine": {},
    "linear": {},
    "one_cycle": {},
    "reduce_on_plateau": {},
}


def factors(name, **keywords):
    """The factor at every step, compiled with a traced int32 step."""
    schedule = make_schedule({"name": name, **keywords}, STEPS_PER_EPOCH, TOTAL)
    return np.asarray(jax.jit(lambda steps: jax.lax.map(schedule, steps))(STEPS.astype(np.int32)))


def keras_factors(schedule):
    return np.asarray(schedule(STEPS.astype(np.float64)), np.float64)


def test_every_schedule_has_a_row_here():
    assert set(SPECS) == set(SCHEDULES.names())


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("warmup", [{}, {"warmup_epochs": 3}])
def test_peak_is_one_and_type_is_float32(name, warmup):
    if name == "one_cycle":
        warmup = {}
    spec = {"name": name} | SPECS[name] | warmup
    schedule = make_schedule(spec, STEPS_PER_EPOCH, TOTAL)
    for step in (0, 3 * STEPS_PER_EPOCH):
        for given_step in (step, jnp.int32(step)):
            value = schedule(given_step)
            assert value.dtype == jnp.float32 and value.shape == ()
            assert value == schedule(step)
    values = factors(**spec)
    assert values.dtype == np.float32
    assert (values >= 0).all() and values.max() <= 1
    assert values.max() > 0.7
    if warmup:
        ramp = np.arange(3 * STEPS_PER_EPOCH) / (3 * STEPS_PER_EPOCH)
        cold = factors(name, **SPECS[name])[: ramp.size]
        expected = ramp if name in ("cosine", "linear") else ramp * cold
        np.testing.assert_allclose(values[: ramp.size], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "name", ["constant", "exponential", "inverse_time", "step_halving", "piecewise"]
)
def test_warmup_does_not_shift_what_follows(name):
    after = 5 * STEPS_PER_EPOCH
    warm = factors(name, **SPECS[name], warmup_epochs=5)
    np.testing.assert_array_equal(warm[after:], factors(name, **SPECS[name])[after:])
    assert warm[0] == 0


def test_constant():
    np.testing.assert_array_equal(factors("constant"), 1)
    np.testing.assert_array_equal(factors("reduce_on_plateau"), 1)


@pytest.mark.parametrize("staircase", [False, True])
@pytest.mark.parametrize("rate", [0.96, 0.5, 1.1])
def test_exponential_equals_keras(rate, staircase):
    from keras.optimizers.schedules import ExponentialDecay

    got = factors("exponential", decay_rate=rate, transition_epochs=2, staircase=staircase)
    steps = 2 * STEPS_PER_EPOCH
    power = STEPS // steps if staircase else STEPS / steps
    np.testing.assert_allclose(got, rate**power, rtol=1e-5)
    keras = ExponentialDecay(1.0, steps, rate, staircase)
    for step in (0, 1, 500, 3000):
        np.testing.assert_allclose(got[step], keras(step), rtol=1e-5)


def test_inverse_time_equals_keras():
    from keras.optimizers.schedules import InverseTimeDecay

    got = factors("inverse_time", decay=1e-2)
    np.testing.assert_allclose(got, 1 / (1 + 1e-2 * STEPS), rtol=1e-6)
    keras = InverseTimeDecay(1.0, 1, 1e-2)
    for step in (0, 1, 500, 3000):
        np.testing.assert_allclose(got[step], keras(step), rtol=1e-6)


def test_step_halving_changes_exactly_at_the_epoch():
    got = factors("step_halving", every_epochs=1)
    np.testing.assert_array_equal(got, (0.5 ** (STEPS // STEPS_PER_EPOCH)).astype(np.float32))


def test_staircase_changes_exactly_at_the_transition():
    got = factors("exponential", decay_rate=0.5, transition_epochs=1, staircase=True)
    np.testing.assert_array_equal(got, (0.5 ** (STEPS // STEPS_PER_EPOCH)).astype(np.float32))


def test_step_halving_is_the_recipe_of_cifar_vgg():
    got = 0.1 * factors("step_halving", every_epochs=20, decay=1e-6)
    expected = []
    for epoch in range(40):
        rate = 0.1 * 0.5 ** (epoch // 20)
        for batch in range(STEPS_PER_EPOCH):
            expected.append(rate * (1.0 / (1.0 + 1e-6 * (epoch * STEPS_PER_EPOCH + batch))))
    np.testing.assert_allclose(got[:TOTAL], expected, rtol=1e-6)


def test_piecewise_equals_keras_but_for_the_boundary_itself():
    from keras.optimizers.schedules import PiecewiseConstantDecay

    got = factors("piecewise", boundaries_epochs=(10, 20, 30), factor=0.2)
    np.testing.assert_allclose(got, 0.2 ** np.minimum(STEPS // (10 * STEPS_PER_EPOCH), 3), 1e-6)
    boundaries = [10 * STEPS_PER_EPOCH - 1, 20 * STEPS_PER_EPOCH - 1]  # Keras: step <= boundary
    keras = PiecewiseConstantDecay(boundaries, [1.0, 0.5, 0.05])
    got = factors("piecewise", boundaries_epochs=(10, 20), factor=(0.5, 0.1))
    for step in (0, boundaries[0], boundaries[0] + 1, boundaries[1], boundaries[1] + 1, 3000):
        np.testing.assert_allclose(got[step], keras(step), rtol=1e-6)


def test_cosine_equals_keras():
    from keras.optimizers.schedules import CosineDecay

    got = factors("cosine", end_scale=0.1)
    shape = 0.5 * (1 + np.cos(np.pi * np.minimum(STEPS, TOTAL) / TOTAL))
    np.testing.assert_allclose(got, 0.9 * shape + 0.1, rtol=1e-5)
    assert factors("cosine")[TOTAL:].max() == 0
    warm = factors("cosine", warmup_epochs=4)
    keras = CosineDecay(0.0, 36 * STEPS_PER_EPOCH, 0.0, "x", 1.0, 4 * STEPS_PER_EPOCH)
    for step in (0, 1, 300, 388, 389, 2000, TOTAL - 1, TOTAL):
        np.testing.assert_allclose(warm[step], keras(step), atol=1e-6)


def test_linear_reaches_its_end():
    np.testing.assert_allclose(factors("linear"), 1 - np.minimum(STEPS, TOTAL) / TOTAL, atol=1e-6)
    warm = factors("linear", warmup_percent=10, end_scale=0.5)
    knots = [0, TOTAL // 10, TOTAL]
    np.testing.assert_allclose(warm, np.interp(STEPS, knots, [0, 1, 0.5]), atol=1e-6)


@pytest.mark.parametrize("anneal", ["cosine", "linear"])
def test_one_cycle(anneal):
    got = factors("one_cycle", rise_epochs=10, start_scale=0.2, end_scale=0.01, anneal=anneal)
    rise = 10 * STEPS_PER_EPOCH

    def between(a, b, share):
        share = np.clip(share, 0, 1)
        return a + (b - a) * ((1 - np.cos(np.pi * share)) / 2 if anneal == "cosine" else share)

    up, down = between(0.2, 1, STEPS / rise), between(1, 0.01, (STEPS - rise) / (TOTAL - rise))
    np.testing.assert_allclose(got, np.where(STEPS < rise, up, down), rtol=1e-4, atol=1e-6)


def test_one_cycle_defaults_are_pytorchs():
    got = factors("one_cycle")
    assert got.argmax() == round(0.3 * TOTAL) and got.max() == pytest.approx(1)
    np.testing.assert_allclose([got[0], got[TOTAL]], [1 / 25, 1 / 25e4], rtol=1e-5)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"name": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'?"),
        ({}, "needs a name"),
        ({"name": "cosine", "warmup_epoch": 3}, "did you mean 'warmup_steps'?"),
        ({"name": "cosine", "warmup_epochs": 3, "warmup_steps": 3}, "are the same duration"),
        ({"name": "cosine", "warmup_epochs": 40}, "does not fit into"),
        ({"name": "linear", "warmup_percent": 100}, "does not fit into"),
        ({"name": "exponential", "decay_rate": 0.5}, "needs 'transition_steps'"),
        (
            {"name": "exponential", "decay_rate": 0, "transition_epochs": 1},
            "decay_rate must be .* got 0",
        ),
        (
            {"name": "exponential", "decay_rate": 1, "transition_epochs": 0},
            "transition_steps must be .* got 0",
        ),
        ({"name": "inverse_time", "decay": -1}, "decay must be .* got -1"),
        ({"name": "step_halving", "every_epochs": 0}, "every_steps must be .* got 0"),
        ({"name": "step_halving", "every_epochs": 1, "factor": 0}, "factor must be .* got 0"),
        ({"name": "step_halving", "every_epochs": 1, "decay": -1}, "decay must be .* got -1"),
        ({"name": "piecewise", "boundaries_epochs": (2, 1)}, "increasing tuple"),
        ({"name": "piecewise", "boundaries_epochs": (1, 1)}, "increasing tuple"),
        ({"name": "piecewise", "boundaries_epochs": 3}, "boundaries_steps must be a tuple or list"),
        ({"name": "piecewise", "boundaries_epochs": (1,), "factor": (1, 2)}, "1 boundaries need"),
        (
            {"name": "piecewise", "boundaries_epochs": (1,), "factor": -1},
            "factor must be .* got -1",
        ),
        ({"name": "one_cycle", "anneal": "square"}, "anneal must be .* got 'square'"),
        ({"name": "one_cycle", "rise_epochs": 40}, "rise_steps must be"),
        ({"name": "one_cycle", "start_scale": 0}, "start_scale must be .* got 0"),
        ({"name": "one_cycle", "end_scale": -1}, "end_scale must be .* got -1"),
        ({"name": "cosine", "end_scale": -0.1}, "end_scale must be .* got -0.1"),
        ({"name": "linear", "end_scale": 2}, "end_scale must be .* got 2"),
        ({"name": "reduce_on_plateau", "factor": 1.5}, "factor must be .* got 1.5"),
        ({"name": "reduce_on_plateau", "patience": 0}, "patience must be .* got 0"),
        ({"name": "reduce_on_plateau", "cooldown": -1}, "cooldown must be .* got -1"),
        ({"name": "reduce_on_plateau", "min_delta": -1}, "min_delta must be .* got -1"),
        ({"name": "reduce_on_plateau", "min_scale": 2}, "min_scale must be .* got 2"),
        ({"name": "reduce_on_plateau", "scale": 2}, "takes no 'scale'"),
        ({"name": "cosine", "end_scale": "low"}, "end_scale must be .* got 'low'"),
        (
            {"name": "exponential", "decay_rate": None, "transition_steps": 1},
            "decay_rate must be .* got None",
        ),
    ],
)
def test_wrong_specs(spec, said):
    with pytest.raises(UserError, match=said) as caught:
        make_schedule(spec, STEPS_PER_EPOCH, TOTAL)
    assert "\n" not in str(caught.value)


# The plateau.


def keras_scales(values, mode, plateau):
    """Learning rates after every epoch of Keras' callback; 1 is the first."""
    from types import SimpleNamespace

    import keras

    callback = keras.callbacks.ReduceLROnPlateau(
        monitor="val_loss",
        mode=mode,
        factor=plateau.factor,
        patience=plateau.patience,
        min_delta=plateau.min_delta,
        cooldown=plateau.cooldown,
        min_lr=plateau.min_scale,
    )
    callback._model = SimpleNamespace(optimizer=SimpleNamespace(learning_rate=np.float64(1.0)))
    callback.on_train_begin()
    rates = []
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {"val_loss": value})
        rates.append(float(callback.model.optimizer.learning_rate))
    return rates


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from([0.5, 0.9, 1.0, 1.1, 1.5, 2.0, math.nan]), max_size=40),
    st.sampled_from(["min", "max"]),
    st.builds(
        Plateau,
        factor=st.sampled_from([0.1, 0.5]),
        patience=st.integers(1, 4),
        min_delta=st.sampled_from([0.0, 0.1, 0.25]),
        cooldown=st.integers(0, 3),
        min_scale=st.sampled_from([0.0, 0.2]),
    ),
)
def test_plateau_equals_keras(values, mode, plateau):
    values = [1.0, *values]  # Keras takes a first NaN for the best; ours does not
    scales = []
    state = plateau
    for value in values:
        state = Plateau(**json.loads(json.dumps(dataclasses.asdict(state))))
        state = state.update(value, mode)
        scales.append(state.scale)
    assert scales == keras_scales(values, mode, plateau)


@given(st.lists(st.sampled_from([1.0, math.nan, math.inf, -math.inf])))
@pytest.mark.parametrize("mode", ["min", "max"])
def test_plateau_never_takes_a_non_finite_best(mode, values):
    state = Plateau(patience=100)
    for value in values:
        state = state.update(value, mode)
    assert state.best == (1.0 if 1.0 in values else None)
    assert state.wait <= len(values)


def test_plateau_is_frozen():
    state = Plateau(patience=1)
    assert state.update(math.nan, "min").scale == 0.1
    assert state == Plateau(patience=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.scale = 2.0


def test_make_plateau():
    assert make_plateau({"name": "cosine"}) is None
    spec = {"name": "reduce_on_plateau", "patience": 3, "factor": 0.2, "warmup_epochs": 2}
    assert make_plateau(spec) == Plateau(patience=3, factor=0.2)
    assert make_plateau({"name": "reduce_on_plateau"}) == Plateau()
    assert factors(**spec)[2 * STEPS_PER_EPOCH] == 1 and factors(**spec)[0] == 0
