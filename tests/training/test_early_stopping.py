import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxcifar.training.early_stopping import EarlyStopping

values = st.lists(st.floats(-10, 10) | st.just(math.nan) | st.just(math.inf), max_size=30)


def feed(stopping, sequence):
    for step, value in enumerate(sequence):
        stopping = stopping.update(value, step)
        if stopping.should_stop:
            break
    return stopping


def test_stops_on_the_patience_th_miss():
    stopping = feed(EarlyStopping(patience=3), [1.0, 0.9, 0.9, 1.2])
    assert not stopping.should_stop
    assert stopping.update(0.9, 4).should_stop


def test_maximises():
    stopping = feed(EarlyStopping(mode="max", patience=2), [0.1, 0.3, 0.2])
    assert (stopping.best, stopping.best_step, stopping.misses) == (0.3, 1, 1)


def test_a_change_of_min_delta_is_no_improvement():
    stopping = feed(EarlyStopping(patience=2, min_delta=0.5), [2.0, 1.5])
    assert stopping.best == 2.0 and stopping.misses == 1
    assert stopping.update(1.25, 2).best == 1.25


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_non_finite_value_never_becomes_the_best(bad, mode):
    stopping = feed(EarlyStopping(mode=mode), [bad, 1.0, bad])
    assert stopping.best == 1.0 and stopping.best_step == 1 and stopping.misses == 1


def test_patience_zero_never_stops():
    assert not feed(EarlyStopping(), [1.0] * 100).should_stop


@given(values, st.sampled_from(["min", "max"]))
def test_the_best_is_the_extreme_of_the_finite_values_first_seen(sequence, mode):
    finite = [value for value in sequence if math.isfinite(value)]
    stopping = feed(EarlyStopping(mode=mode), sequence)
    if not finite:
        assert stopping.best is None
    else:
        best = min(finite) if mode == "min" else max(finite)
        assert stopping.best == best and stopping.best_step == sequence.index(best)
        assert stopping.misses == len(sequence) - 1 - sequence.index(best)


@given(values)
def test_json_keeps_it(sequence):
    stopping = feed(EarlyStopping(patience=4), sequence)
    kept = json.loads(json.dumps(dataclasses.asdict(stopping)))
    assert EarlyStopping(**kept) == stopping
