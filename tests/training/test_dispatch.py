import dataclasses

import jax
import numpy as np
import pytest
import tiny

from flaxcifar.data.dataset import Split
from flaxcifar.training import dispatch, experiment


def found(exp, epoch=0, step=0):
    return list(dispatch.dispatches(exp, epoch, step))


@pytest.mark.parametrize("pipeline", ["host", "resident"])
def test_an_epoch_is_cut_into_dispatches_of_one_shape(pipeline):
    changes = {"steps_per_dispatch": 4, "data.pipeline": pipeline}
    exp = experiment.build(tiny.config(**changes))
    assert [one.steps for one in found(exp)] == [4, 4, 1]
    index = np.concatenate([one.batches["index"][: one.steps] for one in found(exp)])
    np.testing.assert_array_equal(index, exp.epoch_batches(0))
    assert {jax.tree.map(np.shape, one.batches)["index"] for one in found(exp)} == {(4, 16)}
    assert ("image" in found(exp)[0].batches) == (pipeline == "host")


def test_after_a_save_the_rest_is_cut_as_before():
    exp = experiment.build(tiny.config(steps_per_dispatch=4))
    for whole, rest in zip(found(exp, 1, 9)[1:], found(exp, 1, 13), strict=True):
        np.testing.assert_array_equal(whole.batches["index"], rest.batches["index"])


def test_no_dispatch_has_images_of_two_sizes():
    changes = {"steps_per_dispatch": 4, "progressive_sizes": ((30, 4), (60, 6))}
    exp = experiment.build(tiny.config(**changes))
    cut = [(one.steps, one.image_size) for epoch in (0, 1) for one in found(exp, epoch, 9 * epoch)]
    # 30 and 60 % of 18 steps are 5 and 11.
    assert cut == [(4, 4), (1, 4), (4, 6), (2, 6), (4, 0), (3, 0)]


def test_by_default_a_dispatch_takes_a_few_tenths_of_a_second():
    def max_steps(size, **changes):
        exp = experiment.build(tiny.config(**changes))
        images = np.broadcast_to(np.uint8(0), (len(exp.dataset.train), size, size, 3))
        train = Split(images, exp.dataset.train.labels)
        large = dataclasses.replace(exp.dataset, train=train)
        return dispatch.max_steps(dataclasses.replace(exp, dataset=large))

    automatic = {"steps_per_dispatch": 0}
    assert max_steps(8, **automatic) == 9  # of a tiny network, an epoch at most
    assert 1 < max_steps(1024, **automatic) < 9
    assert max_steps(4096, **automatic) == 1
    assert max_steps(4096, steps_per_dispatch=4) == 4
    plain = {"steps_per_dispatch": 4, "ops.convolution": "xla"}
    assert max_steps(8, **plain) == 1
