import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxcifar.data.split import split_validation
from flaxcifar.errors import UserError

_LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=200).map(
    lambda values: np.array(values, np.int32)
)


@given(labels=_LABELS, percent=st.floats(0, 99), seed=st.integers(0, 2**31 - 1))
def test_the_parts_are_disjoint_and_cover_everything(labels, percent, seed):
    train, validation = split_validation(labels, percent, seed)
    assert train.dtype == validation.dtype == np.int32
    assert (np.diff(train) > 0).all() and (np.diff(validation) > 0).all()
    both = np.sort(np.concatenate([train, validation]))
    np.testing.assert_array_equal(both, np.arange(len(labels)))


@given(labels=_LABELS, percent=st.floats(0, 99), seed=st.integers(0, 2**31 - 1))
def test_every_class_gives_its_share_and_keeps_an_example(labels, percent, seed):
    train, validation = split_validation(labels, percent, seed)
    for label in np.unique(labels):
        count, held_out = (labels == label).sum(), (labels[validation] == label).sum()
        assert held_out < count
        assert abs(held_out - count * percent / 100) <= 1 or held_out == count - 1
    assert len(validation) <= round(len(labels) * percent / 100)


def test_the_sum_is_right_where_the_classes_have_fractions():
    labels = np.repeat(np.arange(10, dtype=np.int32), 25)
    train, validation = split_validation(labels, 10, 0)
    assert (len(train), len(validation)) == (225, 25)
    assert set(np.bincount(labels[validation])) == {2, 3}


def test_the_seed_alone_chooses():
    labels = np.tile(np.arange(10, dtype=np.int32), 100)
    first, again = (split_validation(labels, 10, 0)[1] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = split_validation(labels, 10, 1)[1]
    assert len(np.intersect1d(first, other)) < 30


def test_no_validation():
    train, validation = split_validation(np.zeros(9, np.int32), 0, 0)
    assert len(train) == 9 and len(validation) == 0


@pytest.mark.parametrize("percent", [-1, 100])
def test_impossible_shares(percent):
    with pytest.raises(UserError, match="validation_percent"):
        split_validation(np.zeros(9, np.int32), percent, 0)
