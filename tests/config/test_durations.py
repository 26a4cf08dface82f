"""Durations in epochs and percent become steps."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxcifar.config import resolve_durations
from flaxcifar.errors import UserError


@settings(deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(0, 100),
    st.floats(0, 100),
    st.integers(1, 1000),
    st.integers(1, 100_000),
)
def test_durations_become_steps(steps, epochs, percent, steps_per_epoch, total_steps):
    spec = {"name": "x", "a_steps": steps, "b_epochs": epochs, "c_d_percent": percent, "rate": 0.5}
    result = resolve_durations(spec, steps_per_epoch, total_steps)
    assert result == {
        "name": "x",
        "a_steps": steps,
        "b_steps": round(epochs * steps_per_epoch),
        "c_d_steps": round(percent * (total_steps / 100)),
        "rate": 0.5,
    }
    assert all(type(result[key]) is int for key in ("a_steps", "b_steps", "c_d_steps"))


def test_tuples_of_durations():
    spec = {"boundaries_epochs": (60, 120.5), "other_percent": [0, 100], "steps": 3, "_steps": "x"}
    assert resolve_durations(spec, 10, 500) == {
        "boundaries_steps": (600, 1205),
        "other_steps": (0, 500),
        "steps": 3,
        "_steps": "x",
    }


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"warmup_steps": 5, "warmup_epochs": 1}, "warmup_steps and warmup_epochs are the same"),
        ({"warmup_percent": 5, "warmup_epochs": 1}, "warmup_percent and warmup_epochs"),
        ({"warmup_epochs": -1}, "warmup_epochs must be a number of epochs, at least 0, got -1"),
        ({"warmup_epochs": "5"}, "warmup_epochs must be .* got '5'"),
        ({"warmup_epochs": True}, "warmup_epochs must be .* got True"),
        ({"boundaries_epochs": (1, math.nan)}, "boundaries_epochs must be"),
    ],
)
def test_wrong_durations(spec, message):
    with pytest.raises(UserError, match=message):
        resolve_durations(spec, 10, 100)
