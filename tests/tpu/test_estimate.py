"""Estimates of a compiled step: figures, scaling, largest batch, findings."""

import pytest
import tiny

from flaxcifar.tpu import estimate
from flaxcifar.tpu.hlo import Collective, Program
from flaxcifar.tpu.slices import Slice
from flaxcifar.training import experiment

TEXT = """\
ENTRY %main (x: f32[256,64], k: f32[64,128]) -> f32[64,128] {
  %x = f32[256,64]{1,0} parameter(0)
  %k = f32[64,128]{1,0} parameter(1)
  %y = f32[256,128]{1,0} convolution(%x, %k), dim_labels=bf_io->bf, estimated={"estimated_cycles":"3000"}
  ROOT %r = f32[64,128]{1,0} all-reduce(%k), replica_groups={{0,1,2,3}}, to_apply=%add
}
"""  # noqa: E501


def figures(memory=8 << 30):
    program, part = Program(TEXT, looped=False), Slice.parse("v5e:2x2")
    cost = {"flops": 1.25e6, "bytes accessed": 7.0}
    return estimate.figures(program, part, memory, 4e6, cost, batch=1024), part


def test_figures_by_hand():
    found, part = figures()
    assert found["memory_share"] == 0.5
    assert found["model_flops"] == 1e6  # of one of four chips
    assert (found["compiler_flops"], found["bytes_accessed"]) == (1.25e6, 7.0)
    assert found["padded_flops"] == 2 * 256 * 128 * 128
    assert found["padding_share"] == 0.5  # 64 of 128 in depth
    assert found["collectives"] == [
        {"opcode": "all-reduce", "bytes": 64 * 128 * 4, "count": 1, "overlaps": False}
    ]
    assert found["sent_bytes"] == 64 * 128 * 4 * 2 * 3 / 4
    on_chip = 3000 / part.chip.clock
    wait = 2 * 2e-6 + found["sent_bytes"] / 100e9
    seconds = found["estimated_seconds"]
    assert seconds["products"] == pytest.approx(2 * 256 * 128 * 128 / 197e12)
    assert seconds["compiler"] == pytest.approx(on_chip)
    assert seconds["communication"] == pytest.approx(wait)
    assert seconds["step"] == pytest.approx(on_chip + wait)


def test_scaling_keeps_the_images_of_a_chip():
    found, part = figures()
    rows = {row["topology"]: row for row in found["estimated_scaling"]}
    alone, here = rows["v5e:1x1"], rows["v5e:2x2"]
    assert alone["efficiency"] == 1
    assert alone["images_per_second"] == pytest.approx(256 * part.chip.clock / 3000)
    assert here["step_seconds"] == pytest.approx(found["estimated_seconds"]["step"])
    assert here["images_per_second"] == pytest.approx(1024 / here["step_seconds"])
    shares = [row["efficiency"] for row in found["estimated_scaling"]]
    assert shares == sorted(shares, reverse=True)


def test_overlapping_collectives_cost_no_time():
    part = Slice.parse("v5e:2x2")
    collectives = [Collective("all-reduce", 10**9, True), Collective("all-reduce", 1000, False)]
    assert estimate.exposed(part, collectives) == part.seconds("all-reduce", 1000)


def test_the_largest_batch_is_extrapolated_from_two():
    part = Slice.parse("v5e:2x4")
    gib = 2**30
    one, other = ({"batch": n, "memory_bytes": gib + n * gib // 100} for n in (100, 400))
    assert estimate.largest_batch(part, one, other) == 1496  # 1500, rounded to a multiple of 8
    assert estimate.largest_batch(part, one | {"memory_bytes": 10 * gib}, other) is None


def test_findings_name_problems():
    found, part = figures(memory=9 << 30)
    wrong = {"host_transfers": ["infeed i"], "compiler_flops": 2e6}
    lines = estimate.findings(found | wrong, part)
    assert any("50% of the FLOPs" in line for line in lines)
    assert any("infeed i" in line for line in lines)
    assert any("56% of the memory" in line for line in lines)
    assert any("50% of the multiplications" in line for line in lines)
    assert any("communication" in line for line in lines)
    calm = found | {
        "memory_share": 0.1,
        "padding_share": 0.1,
        "estimated_seconds": {"communication": 0.1, "step": 1.0},
    }
    assert estimate.findings(calm, part) == ["never waits for the host"]


def test_flops_are_those_of_the_layers():
    recipe = experiment.build(tiny.config()).recipe
    # Two strided convolutions of 8 x 8 images and a dense layer.
    forward = 2 * (4 * 4 * 9 * 3 * 8 + 2 * 2 * 9 * 8 * 16 + 16 * tiny.CLASSES)
    assert estimate.forward_flops(recipe, (8, 8, 3), 10) == 10 * forward
    # Backward takes twice as much, except for the gradient of the images.
    backward = 2 * forward - 2 * 4 * 4 * 9 * 3 * 8
    assert estimate.training_flops(recipe, (8, 8, 3), 10) == 10 * (forward + backward)
