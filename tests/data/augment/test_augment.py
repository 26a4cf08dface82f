"""Properties of every augmentation, and of lists of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from augmented import apply, compiled, some_images

from flaxcifar.data.augment import AUGMENTATIONS, make_augment
from flaxcifar.errors import UserError

SPECS = {
    "affine": dict(rotation_range=15.0, width_shift_range=0.1, height_shift_range=0.2),
    "horizontal_flip": {},
    "vertical_flip": {},
    "alternating_flip": {},
    "pad_crop": dict(padding=2),
    "cutout": dict(size=5),
}
SEVERAL = [{"name": name} | SPECS[name] for name in ("affine", "alternating_flip", "pad_crop")]
BATCH = 24


def alone(name, images, index=None, **keywords):
    return apply([{"name": name} | SPECS[name]], images, index, **keywords)


def test_every_augmentation_has_a_row_here():
    assert set(SPECS) == set(AUGMENTATIONS.names())


def test_without_augmentations_images_are_only_cast():
    images = some_images(BATCH)
    result = apply([], images)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, images)


@pytest.mark.parametrize("name", SPECS)
def test_shape_type_and_range(name):
    images = some_images(BATCH)
    result = alone(name, images)
    assert result.shape == images.shape and result.dtype == np.float32
    assert result.min() >= 0 and result.max() <= 255
    assert not np.array_equal(result, images)


# What an example becomes depends only on seed, epoch, index and place in the list.


@pytest.mark.parametrize("name", SPECS)
def test_an_example_does_not_depend_on_its_batch(name):
    tolerance = 1e-3 if name == "affine" else 0
    images, keys = some_images(BATCH), dict(seed=3, epoch=5)
    index = np.random.default_rng(1).permutation(50_000)[:BATCH].astype(np.int32)
    expected = alone(name, images, index, **keys)
    order = np.random.default_rng(2).permutation(BATCH)
    shuffled = alone(name, images[order], index[order], **keys)
    np.testing.assert_allclose(shuffled, expected[order], rtol=0, atol=tolerance)
    among_others = some_images(BATCH, seed=4)
    among_others[::2], others_index = images[::2], np.where(np.arange(BATCH) % 2, 7, index)
    found = alone(name, among_others, others_index.astype(np.int32), **keys)[::2]
    np.testing.assert_allclose(found, expected[::2], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", SPECS)
def test_epoch_seed_index_and_place_all_matter(name):
    images = np.repeat(some_images(1), BATCH, axis=0)
    first, index = alone(name, images), np.arange(BATCH, 2 * BATCH, dtype=np.int32)
    assert not np.array_equal(alone(name, images, epoch=1), first)
    assert not np.array_equal(alone(name, images, seed=1), first)
    assert not np.array_equal(alone(name, images, index), first)
    np.testing.assert_array_equal(alone(name, images), first)
    if "flip" in name:
        # Twice in a list they draw independently: otherwise the second would undo the first.
        assert not np.array_equal(apply([{"name": name}] * 2, images), images)


def test_augmentations_act_in_order():
    images = some_images(BATCH)
    flip, hole = {"name": "horizontal_flip", "probability": 1}, {"name": "cutout", "size": 4}
    expected = apply([{"name": "horizontal_flip", "probability": 0}, hole], images[:, :, ::-1])
    np.testing.assert_array_equal(apply([flip, hole], images), expected)


def test_several_devices_scan_and_vmap_give_the_same():
    devices, epochs, seeds = 2, jnp.arange(3), jnp.arange(7, 9)
    images, index = some_images(BATCH), np.arange(BATCH, dtype=np.int32)
    augment = make_augment(SEVERAL)

    @jax.pmap
    def nested(images, index):
        def body(_, epoch):
            return None, jax.vmap(lambda seed: augment(images, index, seed, epoch))(seeds)

        return jax.lax.scan(body, None, epochs)[1]

    def shards(x):
        return x.reshape(devices, -1, *x.shape[1:])

    found = np.concatenate(nested(shards(images), shards(index)), axis=2)
    expected = [[apply(SEVERAL, images, index, s, e) for s in (7, 8)] for e in range(3)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_on_cpu_each_augmentation_is_compiled_apart():
    # Fused with one another, or with what comes after, they take 20 times as long.
    scalar, index = np.int32(0), np.arange(BATCH, dtype=np.int32)
    program = compiled(SEVERAL).lower(some_images(BATCH), index, scalar, scalar).compile()
    assert program.as_text().count(" conditional(") == len(SEVERAL)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"name": "cutoff"}, "unknown augmentation 'cutoff'; did you mean 'cutout'?"),
        ({"name": "cutout"}, "augmentation 'cutout' needs 'size'"),
        ({"name": "cutout", "sise": 3}, "takes no 'sise'; did you mean 'size'?"),
        ({"name": "alternating_flip", "probability": 0.5}, "takes no 'probability'"),
        (
            {"name": "affine", "rotation_range": -1},
            "range must be a number between 0 and 180",
        ),
        ({"name": "affine", "rotation_range": 181}, "180, got 181"),
        ({"name": "affine", "rotation_range": True}, "180, got True"),
        (
            {"name": "affine", "width_shift_range": -0.1},
            "width_shift_range must be a number between 0",
        ),
        (
            {"name": "affine", "height_shift_range": 4},
            "shift_range must be a number between 0",
        ),
        ({"name": "affine", "height_shift_range": "a"}, "1, got 'a'"),
        ({"name": "horizontal_flip", "probability": 1.1}, "probability must be a number between 0"),
        ({"name": "vertical_flip", "probability": -1}, "probability must be a number between 0"),
        ({"name": "pad_crop", "padding": -1}, "padding must be an integer at least 0, got -1"),
        ({"name": "pad_crop", "padding": 1.5}, "padding must be an integer"),
        ({"name": "pad_crop", "padding": 32}, "padding must be at most 31 here, got 32"),
        ({"name": "pad_crop", "padding": 2, "mode": "wrap"}, "constant, got 'wrap'"),
        ({"name": "cutout", "size": 0}, "size must be an integer at least 1, got 0"),
        ({"name": "cutout", "size": 33}, "size must be at most 32 here, got 33"),
        ({"name": "cutout", "size": 4, "fill": 256}, "fill must be a number between 0 and 255"),
    ],
)
def test_wrong_specs_are_refused_before_any_image(spec, said):
    with pytest.raises(UserError) as caught:
        make_augment([{"name": "horizontal_flip"}, spec], (32, 32, 3))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_sizes_that_are_too_large_show_with_the_first_images():
    augment = make_augment([{"name": "pad_crop", "padding": 7}])
    with pytest.raises(UserError, match="padding must be at most 6 here, got 7"):
        jax.jit(augment)(some_images(2), np.arange(2), 0, 0)
