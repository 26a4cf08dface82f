import numpy as np
import pytest

from flaxcifar.training.test_time import WEIGHTS, Views


@pytest.mark.parametrize("name", WEIGHTS)
def test_each_view_has_a_weight_and_they_add_up_to_one(name):
    views = Views(name)
    images = np.random.default_rng(0).normal(size=(2, 6, 5, 3)).astype(np.float32)
    found = list(views.of(images))
    assert len(found) == len(views.weights)
    assert sum(views.weights) == pytest.approx(1)
    assert all(view.shape == images.shape for view in found)
    np.testing.assert_array_equal(found[0], images)


def test_mirrored_and_shifted_views_by_hand():
    image = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    centre, mirrored, up, up_mirrored, down, _ = (
        np.asarray(view)[0, :, :, 0] for view in Views("mirror_shift").of(image)
    )
    np.testing.assert_array_equal(mirrored, centre[:, ::-1])
    # One pixel along the diagonal either way; what comes in is reflected at the edge pixels.
    np.testing.assert_array_equal(up[1:, 1:], centre[:-1, :-1])
    np.testing.assert_array_equal(up[0], [5, 4, 5, 6])
    np.testing.assert_array_equal(up_mirrored, up[:, ::-1])
    np.testing.assert_array_equal(down[:-1, :-1], centre[1:, 1:])
