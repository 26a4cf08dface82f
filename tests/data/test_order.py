import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxcifar.data.order import epoch_indices, permutation
from flaxcifar.errors import UserError


@given(seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 10_000), n=st.integers(0, 300))
def test_every_example_comes_once(seed, epoch, n):
    order = permutation(seed, epoch, n)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    np.testing.assert_array_equal(order, permutation(seed, epoch, n))


def test_the_order_is_that_of_philox_and_never_changes():
    assert permutation(0, 0, 8).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]


def test_seed_and_epoch_both_change_the_order():
    orders = {permutation(seed, epoch, 100).tobytes() for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_positions_are_uniform():
    first = np.bincount([permutation(0, epoch, 10)[0] for epoch in range(2000)], minlength=10)
    assert (abs(first - 200) < 5 * np.sqrt(200)).all()


@given(n=st.integers(1, 200), batch_size=st.integers(1, 50), epoch=st.integers(0, 5))
def test_an_epoch_holds_whole_batches_of_different_examples(n, batch_size, epoch):
    indices = np.arange(1000, 1000 + 3 * n, 3, dtype=np.int32)
    if n < batch_size:
        with pytest.raises(UserError, match=f"batch_size must be at most {n},.* got {batch_size}"):
            epoch_indices(indices, 7, epoch, batch_size)
        return
    batches = epoch_indices(indices, 7, epoch, batch_size)
    assert batches.dtype == np.int32
    assert batches.shape == (n // batch_size, batch_size)
    assert len(np.unique(batches)) == batches.size
    assert np.isin(batches, indices).all()
    order = indices[permutation(7, epoch, n)]
    np.testing.assert_array_equal(batches.ravel(), order[: batches.size])
