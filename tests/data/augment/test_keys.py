"""Random numbers of augmentations against their distributions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from flaxcifar.data.augment.keys import Random

COUNT = 50_000


@functools.partial(jax.jit, static_argnums=0)
def uniforms(draws, seed, epoch, place):
    random = Random.keyed(seed, place, jnp.arange(COUNT), epoch)
    return [random.uniform(draw, -3.0, 2.0) for draw in range(draws)]


@jax.jit
def integers(seed):
    random = Random.keyed(seed, 0, jnp.arange(COUNT), 0)
    return {count: random.integer(0, count) for count in (2, 3, 9, 32)}


@pytest.mark.parametrize("epoch", [0, 1, 199])
def test_uniform_is_uniform(epoch):
    for values in map(np.asarray, uniforms(3, 1, epoch, 0)):
        assert values.dtype == np.float32 and values.min() >= -3 and values.max() < 2
        assert scipy.stats.kstest(values, scipy.stats.uniform(-3, 5).cdf).pvalue > 1e-4


def test_integers_are_uniform():
    for count, values in integers(2).items():
        assert values.dtype == np.int32
        found = np.bincount(np.asarray(values), minlength=count)
        assert len(found) == count and scipy.stats.chisquare(found).pvalue > 1e-4


def test_draws_epochs_seeds_and_places_are_independent():
    columns = [
        column
        for seed in (0, 1)
        for epoch in (0, 1)
        for place in (0, 1)
        for column in uniforms(3, seed, epoch, place)
    ]
    correlation = np.corrcoef(np.asarray(columns))
    assert np.abs(correlation - np.eye(len(columns))).max() < 0.025  # 5.6 standard deviations
