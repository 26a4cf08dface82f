"""The PRNG for parameter initialisation."""

import jax
import numpy as np
import pytest
from scipy import stats

from flaxcifar.models import prng


def test_draws_are_uniform_and_normal():
    key = prng.key(0)
    assert stats.kstest(np.asarray(jax.random.uniform(key, (20000,))), "uniform").pvalue > 1e-3
    assert stats.kstest(np.asarray(jax.random.normal(key, (20000,))), "norm").pvalue > 1e-3


def test_streams_are_independent():
    keys = [prng.key(0), prng.key(1), *jax.random.split(prng.key(0), 3)]
    keys += [jax.random.fold_in(prng.key(0), data) for data in range(3)]
    draws = np.array([jax.random.normal(key, (20000,)) for key in keys])
    correlations = np.corrcoef(draws)[np.triu_indices(len(keys), 1)]
    assert np.abs(correlations).max() < 4 / np.sqrt(20000)


def test_the_numbers_never_change():
    key = jax.random.fold_in(prng.key(7), 3)
    assert [int(bits) for bits in jax.random.bits(key, (3,))] == [2921100755, 3433142538, 721798189]


def test_other_widths_are_refused():
    with pytest.raises(NotImplementedError, match="width 8"):
        jax.random.bits(prng.key(0), (3,), "uint8")
