"""Geometric augmentations against Keras, SciPy and NumPy, and against their distributions."""

import jax
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from augmented import apply, some_images
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxcifar.data.augment import AUGMENTATIONS
from flaxcifar.data.augment.geometry import transform
from flaxcifar.data.augment.keys import Random

# affine: the geometry.


def scipy_transform(image, angle, down, right):
    """float64 reference: output p shows the input at R (p - centre + shift) + centre."""
    height, width, _ = image.shape
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = np.array([height - 1, width - 1]) / 2
    offset = matrix @ (np.array([down, right]) - centre) + centre
    channels = [
        scipy.ndimage.affine_transform(plane, matrix, offset, order=1, mode="nearest")
        for plane in np.moveaxis(image.astype(np.float64), -1, 0)
    ]
    return np.stack(channels, -1)


compiled_transform = jax.jit(transform)


def transform_one(image, angle, down, right):
    batched = [np.float32([x]) if x is not None else None for x in (angle, down, right)]
    return np.asarray(compiled_transform(image[None].astype(np.float32), *batched))[0]


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([(9, 5, 3), (2, 3, 1), (1, 6, 2), (6, 1, 2)]),
    st.floats(-np.pi, np.pi),
    st.floats(-1, 1),
    st.floats(-1, 1),
    st.integers(0, 100),
)
def test_transform_equals_scipy(shape, angle, down, right, seed):
    image = some_images(1, *shape, seed=seed)[0]
    down, right = down * shape[0], right * shape[1]
    expected = scipy_transform(image, angle, down, right)
    np.testing.assert_allclose(transform_one(image, angle, down, right), expected, atol=0.02)


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
@settings(deadline=None, max_examples=25)
@given(st.floats(-180, 180), st.floats(-8, 8), st.floats(-8, 8), st.booleans())
def test_transform_equals_keras(theta, down, right, flip):
    pytest.importorskip("scipy.ndimage.interpolation")  # Keras needs it; SciPy 2 is without
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    image = some_images(1, 16, 16)[0]
    # Keras applies tx to the columns, though it draws it from height_shift_range.
    parameters = {"theta": theta, "tx": right, "ty": down, "flip_horizontal": flip}
    generator = ImageDataGenerator(fill_mode="nearest", data_format="channels_last")
    expected = generator.apply_transform(image.astype(np.float64), parameters)
    got = transform_one(image, np.deg2rad(theta), down, right)
    np.testing.assert_allclose(got[:, ::-1] if flip else got, expected, atol=0.02)


@pytest.mark.parametrize("missing", range(3))
def test_a_missing_part_of_a_transform_is_zero(missing):
    image = some_images(1, 16, 16)[0]
    values = [0.3, 1.25, -0.75]
    zeroed = [0.0 if i == missing else v for i, v in enumerate(values)]
    absent = [None if i == missing else v for i, v in enumerate(values)]
    np.testing.assert_allclose(
        transform_one(image, *absent), transform_one(image, *zeroed), atol=1e-3
    )


def test_whole_shifts_are_exact_and_the_edge_fills():
    image = some_images(1, 16, 16)[0]
    down = transform_one(image, None, 2.0, None)
    np.testing.assert_array_equal(down, np.concatenate([image[2:], image[-1:], image[-1:]]))
    right = transform_one(image, None, None, -3.0)
    columns = [0, 0, 0, *range(13)]
    np.testing.assert_array_equal(right, image[:, columns])


# affine: its draws. On ramps, the shift of every image can be read off its centre.


def shifts_of(spec, count=4000, size=(21, 41), epoch=0):
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.uint8)
    images = np.broadcast_to(np.stack([rows, columns], -1), (count, *size, 2))
    result = apply([{"name": "affine"} | spec], images, epoch=epoch)
    centre = size[0] // 2, size[1] // 2
    return result, result[:, centre[0], centre[1]] - np.array(centre)


def assert_uniform(values, limit):
    assert np.abs(values).max() <= limit * 1.0001
    pvalue = scipy.stats.kstest(values, scipy.stats.uniform(-limit, 2 * limit).cdf).pvalue
    assert pvalue > 1e-4


def test_shifts_are_uniform_fractions_of_their_own_side_and_not_rounded():
    _, shifts = shifts_of(dict(height_shift_range=0.2, width_shift_range=0.1))
    assert_uniform(shifts[:, 0], 0.2 * 21)
    assert_uniform(shifts[:, 1], 0.1 * 41)
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.07
    assert (np.abs(shifts - np.round(shifts)) > 0.01).mean() > 0.9


@pytest.mark.parametrize(("name", "axis"), [("height_shift_range", 0), ("width_shift_range", 1)])
def test_one_range_moves_one_axis(name, axis):
    _, shifts = shifts_of({name: 0.2})
    assert_uniform(shifts[:, axis], 0.2 * (21, 41)[axis])
    np.testing.assert_allclose(shifts[:, 1 - axis], 0, atol=1e-4)


def test_rotations_are_uniform_in_degrees():
    result, centre = shifts_of(dict(rotation_range=15))
    np.testing.assert_allclose(centre, 0, atol=1e-4)
    step = result[:, 10, 24] - result[:, 10, 20]  # four columns to the right of the centre
    angles = np.rad2deg(np.arctan2(step[:, 0], step[:, 1]))
    assert_uniform(angles, 15)
    np.testing.assert_allclose(np.hypot(step[:, 0], step[:, 1]), 4, atol=1e-3)


def test_no_range_no_change_and_no_work():
    spec = dict(name="affine", rotation_range=0, width_shift_range=0.0, height_shift_range=0)
    images = some_images(4)
    np.testing.assert_array_equal(apply([spec], images), images)

    def jaxpr(spec):
        random = Random.keyed(0, 0, np.arange(4, dtype=np.int32), 0)
        function = jax.make_jaxpr(lambda x: AUGMENTATIONS.call(spec, x, random))
        return function(images.astype(np.float32))

    assert not jaxpr(spec).eqns
    assert "sin" not in str(jaxpr({"name": "affine", "width_shift_range": 0.1}))


# Flips.


def flipped(name, images, axis, **keywords):
    """bool [N]: which images are mirrored along `axis`; asserts that the others are unchanged."""
    result = apply([{"name": name}], images, **keywords)
    mirrored = (result == np.flip(images, axis)).all((1, 2, 3))
    same = (result == images).all((1, 2, 3))
    assert (mirrored ^ same).all()
    return mirrored


@pytest.mark.parametrize(
    ("name", "axis"), [("horizontal_flip", 2), ("vertical_flip", 1), ("alternating_flip", 2)]
)
def test_half_of_the_images_are_flipped(name, axis):
    images = some_images(4000, 2, 3, 1) // 8 + np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1) * 40
    share = flipped(name, images, axis).mean()
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(4000)


@pytest.mark.parametrize("probability", [0, 0.2, 1])
@pytest.mark.parametrize(
    ("name", "shape"), [("horizontal_flip", (1, 2)), ("vertical_flip", (2, 1))]
)
def test_flip_probability(name, shape, probability):
    images = np.broadcast_to(np.arange(2, dtype=np.uint8).reshape(1, *shape, 1), (8000, *shape, 1))
    result = apply([{"name": name, "probability": probability}], images)
    share = (result != images).any((1, 2, 3)).mean()
    assert abs(share - probability) <= 4 * np.sqrt(probability * (1 - probability) / 8000)


def test_horizontal_flips_of_two_epochs_are_independent():
    images = some_images(4000, 1, 3, 3)
    first, second = (flipped("horizontal_flip", images, 2, epoch=e) for e in (0, 1))
    assert abs((first == second).mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)


def test_alternating_flip_alternates():
    images = some_images(500, 3, 4, 3)
    epochs = [flipped("alternating_flip", images, 2, epoch=e) for e in range(5)]
    for epoch in range(1, 5):
        np.testing.assert_array_equal(epochs[epoch], ~epochs[epoch - 1])
    assert not np.array_equal(epochs[0], flipped("alternating_flip", images, 2, seed=1))


# pad_crop.


@pytest.mark.parametrize(
    ("mode", "padding", "size"),
    [
        ("reflect", 3, (6, 5)),
        ("reflect", 1, (3, 12)),
        ("edge", 1, (2, 2)),
        ("edge", 3, (4, 9)),
        ("constant", 3, (6, 5)),
        ("constant", 0, (3, 2)),
    ],
)
def test_pad_crop_reaches_every_window_of_the_padded_image_equally(mode, padding, size):
    count, (height, width) = 6000, size
    image = some_images(1, height, width, 2)[0]
    result = apply(
        [{"name": "pad_crop", "padding": padding, "mode": mode}],
        np.broadcast_to(image, (count, *image.shape)),
    )
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode)
    windows = {
        padded[top : top + height, left : left + width].astype(np.float32).tobytes(): 0
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    }
    assert len(windows) == (2 * padding + 1) ** 2
    for crop in result:
        windows[crop.tobytes()] += 1  # KeyError: not a window of NumPy's padded image
    assert min(windows.values()) > 0
    assert padding == 0 or scipy.stats.chisquare(list(windows.values())).pvalue > 1e-4
