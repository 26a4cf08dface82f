import numpy as np
import pytest

from flaxcifar.data.dataset import Dataset, Split, superclasses
from flaxcifar.errors import UserError


def test_superclasses_follow_from_the_pairs():
    labels, coarse = np.array([2, 0, 1, 2, 0]), np.array([1, 1, 0, 1, 1])
    found = superclasses(labels, coarse, 3)
    assert found.dtype == np.int32
    assert found.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "coarse", "found"),
    [([0, 1, 1, 2], [0, 0, 1, 1], r"\[0, 1\]"), ([0, 2], [0, 1], "no examples")],
)
def test_a_class_has_exactly_one_superclass(labels, coarse, found):
    with pytest.raises(UserError, match=f"one coarse label, got {found} for class 1"):
        superclasses(np.array(labels), np.array(coarse), 3)


def test_splits_refuse_other_shapes_and_types():
    images, labels = np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int32)
    assert len(Split(images, labels)) == 2
    for bad in [(images / 255, labels), (images, labels[:, None]), (images, labels[:1])]:
        with pytest.raises(ValueError, match="images must be|labels must be"):
            Split(*bad)


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_out_of_range_is_named(label):
    images, labels = np.zeros((3, 4, 4, 3), np.uint8), np.array([0, 1, label], np.int32)
    good = Split(images[:2], labels[:2])
    Dataset("own", good, good, ("a", "b"))
    with pytest.raises(
        UserError,
        match=f"'own': labels must be from 0 to 1, got {label} for test example 2 .1 of 3",
    ):
        Dataset("own", good, Split(images, labels), ("a", "b"))


def test_classes_of_the_same_name_are_named():
    split = Split(np.zeros((3, 4, 4, 3), np.uint8), np.arange(3, dtype=np.int32))
    with pytest.raises(UserError, match="'own': .* must differ, got 2 classes 'cat'"):
        Dataset("own", split, split, ("cat", "dog", "cat"))
