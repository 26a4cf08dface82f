import hashlib

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import Normalizer

from flaxcifar.data.sources.drawings import DRAWINGS, Random
from flaxcifar.data.sources.synthetic import synthetic


@pytest.fixture(scope="module")
def dataset():
    return synthetic("", 32).decode(np.empty)


def test_classes_and_superclasses(dataset):
    assert len(set(dataset.class_names)) == 100 and len(set(dataset.superclass_names)) == 20
    for name, superclass in zip(dataset.class_names, dataset.superclass_of, strict=True):
        assert name.startswith(dataset.superclass_names[superclass] + ", ")
    assert np.bincount(dataset.superclass_of).tolist() == [5] * 20
    assert np.bincount(dataset.train.labels).tolist() == [200] * 100
    assert np.bincount(dataset.test.labels).tolist() == [40] * 100
    assert dataset.train.images.shape == (20000, 32, 32, 3)


def test_every_bit_is_the_same_everywhere(dataset):
    digests = [
        hashlib.sha256(split.images).hexdigest()[:16] for split in (dataset.train, dataset.test)
    ]
    assert digests == ["694f6f90efb412e9", "71338c578a5ba3ae"]


def test_no_image_comes_twice(dataset):
    both = np.concatenate([dataset.train.images, dataset.test.images])
    assert len({image.tobytes() for image in both}) == len(both)


def test_every_image_has_its_negative_in_its_class(dataset):
    for split in (dataset.train, dataset.test):
        half = len(split) // 2
        np.testing.assert_array_equal(split.images[half:], 255 - split.images[:half])
        np.testing.assert_array_equal(split.labels[half:], split.labels[:half])


def test_a_linear_model_on_pixels_finds_chance(dataset):
    # A quarter of the training images, with their negatives, in blocks of 4x4: that is faster.
    def pixels(images):
        blocks = images.reshape(-1, 8, 4, 8, 4, 3).mean(axis=(2, 4), dtype=np.float32)
        return blocks.reshape(len(images), -1)

    train, test = dataset.train, dataset.test
    some = np.arange(len(train)).reshape(2, -1)[:, :2500].ravel()
    model = RidgeClassifier(alpha=1e4).fit(pixels(train.images[some]), train.labels[some])
    assert model.score(pixels(test.images), test.labels) < 0.03


def test_products_of_pixels_tell_the_classes_apart(dataset):
    """Features as of one layer of filters and pooling: how colours at some distance agree."""

    def features(split, count):
        x = split.images[:count].astype(np.float32) / 64
        x -= x.mean(axis=(1, 2), keepdims=True)
        shifts = [(0, 0), (0, 2), (2, 0), (2, 2), (2, -2), (0, 5), (5, 0), (5, 5), (5, -5)]
        parts = [np.roll(x, shift, axis=(1, 2)).reshape(count, -1, 3) for shift in shifts]
        return np.concatenate(
            [(x.reshape(count, -1, 3).swapaxes(1, 2) @ p).reshape(count, -1) for p in parts], axis=1
        )

    scaler = Normalizer()
    train, test = features(dataset.train, 3000), features(dataset.test, 500)
    model = KNeighborsClassifier(3).fit(scaler.transform(train), dataset.train.labels[:3000])
    assert model.score(scaler.transform(test), dataset.test.labels[:500]) > 0.6


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawings_have_figure_and_ground(name):
    x = np.linspace(-1, 1, 32, dtype=np.float32)[None, None, :] + np.zeros((1, 32, 1), np.float32)
    random = Random(key=(0, 0), count=64)
    pattern = DRAWINGS[name](*random.placed(x, x.transpose(0, 2, 1)), random)
    assert pattern.shape == (64, 32, 32) and pattern.dtype == np.float32
    assert pattern.min() >= -1 and pattern.max() <= 1
    share = (pattern > 0).mean(axis=(1, 2))
    assert (share > 0.02).all() and (share < 0.98).all()


def test_random_numbers():
    random = Random(key=(1, 2), count=4000)
    numbers = random.uniform(-2, 3, 5)
    assert numbers.shape == (4000, 5) and numbers.dtype == np.float32
    assert abs(numbers.mean() - 0.5) < 0.05 and -2 <= numbers.min() and numbers.max() <= 3
    signs = random.sign()
    assert set(signs.ravel()) == {-1.0, 1.0} and abs(signs.mean()) < 0.08
    assert (Random((1, 2), 9).uniform(0, 1) == Random((1, 2), 9).uniform(0, 1)).all()
    assert (Random((1, 2), 9).uniform(0, 1) != Random((2, 1), 9).uniform(0, 1)).any()
