"""Models of plain NNX layers, on any number of devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from flax import linen as nn
from flax import nnx

from flaxcifar import ops
from flaxcifar.devices import parallel
from flaxcifar.errors import UserError
from flaxcifar.models.adapt import adapt
from flaxcifar.models.layers import Dropout
from flaxcifar.models.network import Network
from flaxcifar.models.summary import model_summary

SHAPE = (8, 8, 3)


class Plain(nnx.Module):
    """A user's model of NNX's own layers, some of them in a list."""

    def __init__(self, rngs, **dropout):
        conv = functools.partial(nnx.Conv, rngs=rngs)
        self.layers = nnx.List([conv(3, 4, (3, 3)), nnx.BatchNorm(4, rngs=rngs), nnx.relu])
        self.dropout = nnx.Dropout(0.5, rngs=rngs, **dropout)
        self.tail = nnx.Sequential(nnx.Dropout(0.5, rngs=rngs), nnx.Linear(4, 5, rngs=rngs))

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.tail(self.dropout(x).mean((1, 2)))


def network(**dropout):
    return Network.create(lambda rngs: adapt(Plain(rngs, **dropout), parallel.AXIS), "jax")[0]


def logits_and_gradients(net, arrays, batch, devices):
    """Returns the logits of all examples, the mean gradients and the batch statistics."""

    def step(params, stats, batch):
        def loss_fn(params):
            logits, after = net.apply(params, stats, *batch, train=True)
            return jnp.mean(logits**2), (logits, after)

        grads, (logits, after) = jax.grad(loss_fn, has_aux=True)(params)
        every = jax.lax.all_gather(logits, parallel.AXIS, tiled=True)
        return every, jax.lax.pmean(grads, parallel.AXIS), after

    run = parallel.pmap(step, replicated=2, batch_axis=0, devices=jax.devices()[:devices])
    return jax.device_get(run(*arrays, batch))


def test_four_devices_compute_what_one_computes():
    net = network()
    arrays = quick.arrays(net)
    images = np.random.default_rng(0).normal(size=(8, *SHAPE)).astype(np.float32)
    batch = images, np.arange(8, dtype=np.uint32)
    one, four = (logits_and_gradients(net, arrays, batch, n) for n in (1, 4))
    assert np.abs(one[0]).max() > 0.01
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, four)


def test_dropout_layers_differ_and_are_off_in_evaluation():
    model = adapt(Plain(nnx.Rngs(0)), None)
    first, second = model.dropout, model.tail.layers[0]
    assert type(first) is type(second) is Dropout
    assert first.rate == second.rate == 0.5 and first.salt != second.salt
    net = network()
    images = jnp.ones((4, *SHAPE))
    logits, _ = net.apply(*quick.arrays(net), images, None, train=False)
    assert np.ptp(logits, axis=0).max() == 0


def test_convolutions_use_the_backend_and_the_summary_lists_them():
    net = network()
    text = str(
        jax.make_jaxpr(lambda p, s, x: net.apply(p, s, x, None, train=False))(
            *net.abstract(), jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)
        )
    )
    assert "custom_vjp" in text
    rows, totals = model_summary(net, SHAPE, frozenset())
    assert "layers/0" in [row.path for row in rows]
    assert totals["total"] == (3 * 3 * 3 * 4 + 4) + (8 + 8) + (4 * 5 + 5)


def test_masks_shared_between_dimensions_are_refused():
    with pytest.raises(UserError, match="broadcast_dims"):
        network(broadcast_dims=(1,))


def test_layers_of_the_package_and_other_objects_stay():
    class Own(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(4, axis_name="mine", rngs=rngs)
            self.conv = nnx.Conv(3, 4, (1, 1), conv_general_dilated=ops.convolution, rngs=rngs)

    model = adapt(Own(nnx.Rngs(0)), parallel.AXIS)
    assert model.norm.axis_name == "mine"
    linen = nn.Dense(2)
    assert adapt(linen, None) is linen
