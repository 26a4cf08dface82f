"""Augmentations against Keras, SciPy and NumPy; their randomness against its distributions."""

import ast
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flaxcifar.data.augment import AUGMENTATIONS, Random, make_augment, resize, transform
from flaxcifar.errors import UserError
from flaxcifar.ops import hashing

SPECS = {
    "affine": dict(rotation_range=15.0, width_shift_range=0.1, height_shift_range=0.2),
    "horizontal_flip": {},
    "vertical_flip": {},
    "alternating_flip": {},
    "pad_crop": dict(padding=2),
    "cutout": dict(size=5),
}


def some_images(batch, height=9, width=7, channels=3, seed=0):
    shape = (batch, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def apply(specs, images, index=None, seed=0, epoch=0):
    """float32 images, compiled with seed and epoch traced; `specs` is a list or one name."""
    if isinstance(specs, str):
        specs = [{"name": specs} | SPECS[specs]]
    index = np.arange(len(images), dtype=np.int32) if index is None else index
    return np.asarray(compiled(repr(specs))(images, index, np.int32(seed), np.int32(epoch)))


@functools.lru_cache
def compiled(specs):
    return jax.jit(make_augment(ast.literal_eval(specs)))


def test_every_augmentation_has_a_row_here():
    assert set(SPECS) == set(AUGMENTATIONS.names())


def test_without_augmentations_images_are_only_cast():
    images = some_images(4)
    result = apply([], images)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, images)


@pytest.mark.parametrize("name", SPECS)
def test_shape_type_and_range(name):
    images = some_images(16)
    result = apply(name, images)
    assert result.shape == images.shape and result.dtype == np.float32
    assert result.min() >= 0 and result.max() <= 255
    assert not np.array_equal(result, images)


# What an example becomes depends on nothing but seed, epoch, index and place in the list.


@pytest.mark.parametrize("name", SPECS)
def test_an_example_does_not_depend_on_its_batch(name):
    images = some_images(24)
    index = np.random.default_rng(1).permutation(50_000)[:24].astype(np.int32)
    whole = apply(name, images, index, seed=3, epoch=5)
    order = np.random.default_rng(2).permutation(24)
    shuffled = apply(name, images[order], index[order], seed=3, epoch=5)
    parts = [apply(name, images[i : i + 5], index[i : i + 5], 3, 5) for i in range(0, 24, 5)]
    tolerance = 1e-3 if name == "affine" else 0
    np.testing.assert_allclose(shuffled, whole[order], rtol=0, atol=tolerance)
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", SPECS)
def test_epoch_seed_index_and_place_all_matter(name):
    images = np.repeat(some_images(1), 64, axis=0)
    spec = {"name": name} | SPECS[name]
    first = apply([spec], images)
    assert not np.array_equal(apply([spec], images, epoch=1), first)
    assert not np.array_equal(apply([spec], images, seed=1), first)
    assert not np.array_equal(apply([spec], images, np.arange(64, 128, dtype=np.int32)), first)
    np.testing.assert_array_equal(apply([spec], images), first)
    if name in ("horizontal_flip", "alternating_flip", "vertical_flip"):
        # Twice in a list they draw independently: else every second flip would undo the first.
        assert not np.array_equal(apply([spec, spec], images), images)


def test_augmentations_act_in_order():
    images = some_images(8)
    flip, hole = {"name": "horizontal_flip", "probability": 1}, {"name": "cutout", "size": 4}
    expected = apply([{"name": "horizontal_flip", "probability": 0}, hole], images[:, :, ::-1])
    np.testing.assert_array_equal(apply([flip, hole], images), expected)


SEVERAL = [{"name": name} | SPECS[name] for name in ("affine", "alternating_flip", "pad_crop")]


def test_several_devices_scan_and_vmap_give_the_same():
    devices = min(jax.local_device_count(), 8)
    images, index = some_images(8 * devices), np.arange(8 * devices, dtype=np.int32)
    augment = make_augment(SEVERAL)
    expected = [apply(SEVERAL, images, index, 7, epoch) for epoch in range(3)]
    epochs, seed = jnp.arange(3), jnp.int32(7)

    def split(x):
        return x.reshape(devices, -1, *x.shape[1:])

    mapped = jax.pmap(augment, in_axes=(0, 0, None, None))
    got = mapped(split(images), split(index), seed, epochs[1])
    np.testing.assert_allclose(got, split(expected[1]), rtol=0, atol=1e-3)

    def body(_, epoch):
        return None, augment(images, index, seed, epoch)

    got = jax.jit(lambda epochs: jax.lax.scan(body, None, epochs)[1])(epochs)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3)
    got = jax.jit(jax.vmap(lambda epoch: augment(images, index, seed, epoch)))(epochs)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3)


def test_on_cpu_each_augmentation_is_compiled_apart():
    # Fused into one another, or into what comes after, they take 20 times as long.
    images = np.zeros((8, 32, 32, 3), np.uint8)
    augment = jax.jit(make_augment(SEVERAL))
    text = augment.lower(images, np.arange(8), np.int32(0), np.int32(0)).compile().as_text()
    assert text.count(" conditional(") == len(SEVERAL)


# Random numbers.


def random_of(count, seed=0, epoch=0, place=0):
    return Random(hashing.combine(seed, place, jnp.arange(count)), jnp.asarray(epoch))


@pytest.mark.parametrize("epoch", [0, 1, 199])
@pytest.mark.parametrize("draw", [0, 1, 2])
def test_uniform_is_uniform(epoch, draw):
    values = np.asarray(random_of(50_000, seed=1, epoch=epoch).uniform(draw, -3.0, 2.0))
    assert values.dtype == np.float32 and values.min() >= -3 and values.max() < 2
    assert scipy.stats.kstest(values, scipy.stats.uniform(-3, 5).cdf).pvalue > 1e-4


@pytest.mark.parametrize("count", [2, 3, 9, 32])
def test_integers_are_uniform(count):
    values = np.asarray(random_of(50_000, seed=2).integer(0, count))
    assert values.dtype == np.int32
    assert scipy.stats.chisquare(np.bincount(values, minlength=count)).pvalue > 1e-4


def test_draws_epochs_seeds_and_places_are_independent():
    columns = [
        random_of(20_000, seed, epoch, place).uniform(draw)
        for seed in (0, 1)
        for epoch in (0, 1)
        for place in (0, 1)
        for draw in (0, 1, 2)
    ]
    correlation = np.corrcoef(np.asarray(columns))
    assert np.abs(correlation - np.eye(len(columns))).max() < 0.04  # 5.6 standard deviations


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


def transform_one(image, angle, down, right):
    batched = [np.float32([x]) if x is not None else None for x in (angle, down, right)]
    return np.asarray(jax.jit(transform)(image[None].astype(np.float32), *batched))[0]


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([(8, 8, 3), (9, 5, 1), (2, 3, 4), (32, 32, 3), (1, 6, 2), (6, 1, 2)]),
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
    image = some_images(1)[0]
    values = [0.3, 1.25, -0.75]
    zeroed = [0.0 if i == missing else v for i, v in enumerate(values)]
    absent = [None if i == missing else v for i, v in enumerate(values)]
    np.testing.assert_allclose(
        transform_one(image, *absent), transform_one(image, *zeroed), atol=1e-3
    )


def test_whole_shifts_are_exact_and_the_edge_fills():
    image = some_images(1)[0]
    down = transform_one(image, None, 2.0, None)
    np.testing.assert_array_equal(down, np.concatenate([image[2:], image[-1:], image[-1:]]))
    right = transform_one(image, None, None, -3.0)
    np.testing.assert_array_equal(right, image[:, [0, 0, 0, 0, 1, 2, 3]])


# affine: what is drawn. On ramps, the shift of every image can be read off its centre.


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
    arguments = (images.astype(np.float32), random_of(4))
    jaxpr = jax.make_jaxpr(lambda x: AUGMENTATIONS.call(spec, x, arguments[1]))(arguments[0])
    assert not jaxpr.eqns
    shifts = {"name": "affine", "width_shift_range": 0.1}
    text = str(jax.make_jaxpr(lambda x: AUGMENTATIONS.call(shifts, x, arguments[1]))(arguments[0]))
    assert "sin" not in text


# Flips.


def flipped(name, images, axis, count, **keywords):
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
    share = flipped(name, images, axis, 4000).mean()
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(4000)


def test_flip_probability():
    images = np.broadcast_to(np.arange(2, dtype=np.uint8).reshape(1, 1, 2, 1), (8000, 1, 2, 1))
    for name in ("horizontal_flip", "vertical_flip"):
        pictures = images if name == "horizontal_flip" else images.reshape(8000, 2, 1, 1)
        for probability in (0, 0.2, 1):
            result = apply([{"name": name, "probability": probability}], pictures)
            share = (result != pictures).any((1, 2, 3)).mean()
            assert abs(share - probability) <= 4 * np.sqrt(probability * (1 - probability) / 8000)


def test_horizontal_flips_of_two_epochs_are_independent():
    images = some_images(4000, 1, 3, 3)
    first, second = (flipped("horizontal_flip", images, 2, 4000, epoch=e) for e in (0, 1))
    assert abs((first == second).mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)


def test_alternating_flip_alternates():
    images = some_images(500, 3, 4, 3)
    epochs = [flipped("alternating_flip", images, 2, 500, epoch=e) for e in range(5)]
    for epoch in range(1, 5):
        np.testing.assert_array_equal(epochs[epoch], ~epochs[epoch - 1])
    assert not np.array_equal(epochs[0], flipped("alternating_flip", images, 2, 500, seed=1))


# pad_crop.


@pytest.mark.parametrize("mode", ["reflect", "edge", "constant"])
@pytest.mark.parametrize("padding", [1, 3])
def test_pad_crop_reaches_every_window_of_the_padded_image_equally(mode, padding):
    count, (height, width) = 6000, (6, 5)
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
    assert scipy.stats.chisquare(list(windows.values())).pvalue > 1e-4


@settings(deadline=None, max_examples=5)
@given(st.integers(2, 12), st.integers(2, 12), st.data())
def test_pad_crop_of_any_shape_is_a_window(height, width, data):
    padding = data.draw(st.integers(0, min(height, width) - 1))
    mode = data.draw(st.sampled_from(["reflect", "edge", "constant"]))
    images = some_images(3, height, width, 1)
    result = apply([{"name": "pad_crop", "padding": padding, "mode": mode}], images)
    for image, crop in zip(images, result, strict=True):
        padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode)
        windows = np.lib.stride_tricks.sliding_window_view(padded, image.shape)
        assert (windows == crop).all((-1, -2, -3)).any()


# cutout.


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_covers_a_square_with_its_centre_anywhere(size):
    count, height, width = 6000, 9, 7
    images = np.full((count, height, width, 2), 200, np.uint8)
    holes = apply([{"name": "cutout", "size": size, "fill": 10}], images) == 10
    assert (holes[..., 0] == holes[..., 1]).all()
    expected = {}
    for row in range(height):
        for column in range(width):
            mask = np.zeros((height, width), bool)
            top, left = row - size // 2, column - size // 2
            mask[max(top, 0) : top + size, max(left, 0) : left + size] = True
            expected[mask.tobytes()] = 0
    assert len(expected) == height * width
    for hole in holes[..., 0]:
        expected[hole.tobytes()] += 1
    assert min(expected.values()) > 0
    assert scipy.stats.chisquare(list(expected.values())).pvalue > 1e-4


def test_cutout_keeps_the_rest_and_fills_with_grey():
    images = some_images(50)
    result = apply([{"name": "cutout", "size": 5}], images)
    changed = result != images
    assert (result[changed] == 127.5).all()
    assert (changed.all(-1) == changed.any(-1)).all() and changed.any((1, 2, 3)).all()


# Wrong specs.


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"name": "cutoff"}, "unknown augmentation 'cutoff'; did you mean 'cutout'?"),
        ({"name": "cutout"}, "augmentation 'cutout' needs 'size'"),
        ({"name": "cutout", "sise": 3}, "takes no 'sise'; did you mean 'size'?"),
        ({"name": "alternating_flip", "probability": 0.5}, "takes no 'probability'"),
        ({"name": "affine", "rotation_range": -1}, "rotation_range is -1"),
        ({"name": "affine", "rotation_range": 181}, "rotation_range is 181"),
        ({"name": "affine", "width_shift_range": -0.1}, "width_shift_range is -0.1"),
        ({"name": "affine", "height_shift_range": 4}, "height_shift_range is 4"),
        ({"name": "affine", "height_shift_range": "a"}, "height_shift_range is 'a'"),
        ({"name": "affine", "rotation_range": True}, "rotation_range is True"),
        ({"name": "horizontal_flip", "probability": 1.1}, "probability is 1.1"),
        ({"name": "vertical_flip", "probability": -1}, "probability is -1"),
        ({"name": "pad_crop", "padding": -1}, "padding is -1"),
        ({"name": "pad_crop", "padding": 1.5}, "padding is 1.5; it must be an integer"),
        ({"name": "pad_crop", "padding": 32}, "padding is 32"),
        ({"name": "pad_crop", "padding": 2, "mode": "wrap"}, "mode is 'wrap'"),
        ({"name": "cutout", "size": 0}, "size is 0"),
        ({"name": "cutout", "size": 33}, "size is 33"),
        ({"name": "cutout", "size": 4, "fill": 256}, "fill is 256"),
    ],
)
def test_wrong_specs_are_refused_before_any_image(spec, said):
    with pytest.raises(UserError) as caught:
        make_augment([{"name": "horizontal_flip"}, spec], (32, 32, 3))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_too_large_shows_with_the_first_images():
    augment = make_augment([{"name": "pad_crop", "padding": 7}])
    with pytest.raises(UserError, match="padding is 7"):
        jax.jit(augment)(some_images(2), np.arange(2), 0, 0)


@pytest.mark.parametrize("size", [4, 6, 8])
def test_resized_images_are_those_of_pillow(size):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.float32)
    got = resize(jnp.asarray(image)[None], size)[0]
    for channel in range(3):
        band = Image.fromarray(image[..., channel], mode="F").resize((size, size), Image.BILINEAR)
        np.testing.assert_allclose(got[..., channel], np.asarray(band), rtol=1e-4, atol=0.01)
