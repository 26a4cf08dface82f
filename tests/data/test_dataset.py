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
    ("labels", "coarse"), [([0, 1, 1, 2], [0, 0, 1, 1]), ([0, 2], [0, 1])], ids=["two", "none"]
)
def test_a_class_has_exactly_one_superclass(labels, coarse):
    with pytest.raises(UserError, match="must have exactly one coarse label"):
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
        UserError, match=f"'own': labels must be from 0 to 1, got {label} for example 2"
    ):
        Dataset("own", good, Split(images, labels), ("a", "b"))
