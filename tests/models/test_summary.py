"""The summary of a network: layers, parameters, FLOPs, frozen layers."""

import functools

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from flaxcifar.models import MODELS
from flaxcifar.models.network import Network
from flaxcifar.models.summary import layer_rows, model_summary, summary_table

SHAPE = (32, 32, 3)
SMALL = {
    "vgg16": dict(name="vgg16", width=8),
    "resnet": dict(name="resnet", widths=(8, 16, 16, 32)),
    "crcv": dict(name="crcv"),
}


@functools.cache
def create(name, shape=SHAPE):
    """Returns the network and the shapes of its parameters and statistics."""
    network, _ = Network.create(
        lambda rngs: MODELS.call(SMALL[name], 100, shape, jnp.float32, "batch", rngs)
    )
    return network, *network.abstract()


def rows_by_path(name, frozen=frozenset()):
    return {row.path: row for row in layer_rows(create(name)[0], SHAPE, frozen)}


def test_rows_have_shapes_parameters_and_flops_by_hand():
    rows = rows_by_path("vgg16")
    conv = rows["stage2/conv1"]
    assert conv.shape == (16, 16, 16) and conv.kind == "Conv 3 x 3"
    assert conv.parameters == 9 * 8 * 16 + 16
    assert conv.flops == 2 * 16 * 16 * 9 * 8 * 16
    assert rows["stage2/norm1"].parameters == 4 * 16
    assert rows["stage1/dropout1"].kind == "Dropout 0.3"
    assert rows["stage1/dropout1"].parameters == rows["stage1/dropout1"].flops == 0
    assert rows["head"].flops == 2 * 64 * 100 and rows["head"].shape == (100,)
    strided = rows_by_path("resnet")["stage2/block1/conv1"]
    assert strided.kind == "Conv 3 x 3 / 2" and strided.shape == (16, 16, 16)
    assert strided.flops == 2 * 16 * 16 * 9 * 8 * 16


def test_rows_follow_the_computation():
    paths = list(rows_by_path("crcv"))
    # The dropout of stage 1 has rate 0 and is left out.
    assert paths[:5] == [
        "stage1/conv1",
        "stage1/norm1",
        "stage2/conv1",
        "stage2/norm1",
        "stage2/dropout",
    ]
    assert paths[-1] == "head" and len(paths) == len(set(paths))


def test_training_flops_exclude_unneeded_gradients():
    network, params, _ = create("crcv")
    rows = rows_by_path("crcv")

    def training_flops(*trained):
        frozen = {path for path in params if not path.startswith(trained)}
        return model_summary(network, SHAPE, frozen)[1]["training_flops_per_image"]

    forward = sum(row.flops for row in rows.values())
    first, last = rows["stage1/conv1"].flops, rows["head"].flops
    # The gradient of the images is not computed.
    assert training_flops("") == 3 * forward - first
    assert training_flops("head/") == forward + last
    assert training_flops("stage4/", "head/") == forward + rows["stage4/conv1"].flops + 2 * last
    assert training_flops("stage1/") == 2 * forward


@pytest.mark.parametrize("name", SMALL)
def test_totals_equal_the_arrays(name):
    network, params, stats = create(name)
    _, totals = model_summary(network, SHAPE)
    sizes = [sum(x.size for x in arrays.values()) for arrays in (params, stats)]
    assert totals["trained"] == sizes[0] and totals["statistics"] == sizes[1]
    assert totals["total"] == sum(sizes) and totals["frozen"] == 0


@pytest.mark.parametrize("name", SMALL)
def test_flops_are_those_the_compiler_counts(name):
    # The compiler excludes multiplications by padding, which matter less on large maps. It includes
    # normalisation, activation and pooling.
    shape = (128, 128, 3)
    network, params, stats = create(name, shape)
    apply = jax.jit(lambda p, s, x: network.apply(p, s, x, None, train=False)[0])
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    analysis = apply.lower(params, stats, images).cost_analysis()
    _, totals = model_summary(network, shape)
    assert totals["flops_per_image"] == pytest.approx(analysis["flops"], rel=0.1)


def test_frozen_layers_are_told_from_trained_ones():
    params = create("vgg16")[1]
    frozen = frozenset(path for path in params if path.startswith("stage1/"))
    frozen |= {"stage2/conv1/kernel"}
    rows = rows_by_path("vgg16", frozen)
    assert rows["stage1/conv1"].state == rows["stage1/dropout1"].state == "frozen"
    assert rows["stage2/conv1"].state == "partly frozen" and rows["stage2/dropout1"].state == ""
    layers, totals = model_summary(create("vgg16")[0], SHAPE, frozen)
    assert totals["frozen"] == sum(params[path].size for path in frozen)
    assert totals["frozen"] + totals["trained"] + totals["statistics"] == totals["total"]
    console = Console(width=200)
    with console.capture() as capture:
        console.print(summary_table(layers, totals))
    lines = capture.get().splitlines()

    def state(path):
        return next(line for line in lines if f" {path} " in line).split("│")[-2].strip()

    assert state("stage1/conv1") == "frozen" and state("stage2/conv1") == "partly frozen"
    assert state("stage3/conv1") == "trained" and state("stage3/dropout1") == ""
    assert f"{totals['total']:,}" in capture.get() and f"{totals['frozen']:,} frozen" in lines[-2]


def test_layers_that_train_at_another_rate_say_so():
    network = create("crcv")[0]
    how = {"head/kernel": "at 0.1 x the rate", "stage1/conv1/kernel": "by muon"}
    how |= dict.fromkeys(("stage1/norm1/scale", "stage1/norm1/bias"), "at 2 x the rate")
    states = {row.path: row.state for row in model_summary(network, SHAPE, how=how)[0]}
    assert states["head"] == "trained partly at 0.1 x the rate"  # its bias as most
    assert states["stage1/norm1"] == "trained at 2 x the rate"
    assert states["stage2/conv1"] == "trained" and states["stage1/conv1"].startswith("trained")


def test_a_summary_computes_nothing(monkeypatch):
    network, _, _ = create("crcv")
    monkeypatch.setattr(jax, "jit", None)
    with jax.transfer_guard("disallow"):
        model_summary(network, SHAPE)
