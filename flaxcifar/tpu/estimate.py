"""Estimates of what a compiled step needs on a TPU: memory, FLOPs, communication and time.

The step time is the sum of the compiler's cycle estimates of all operations, which include HBM
accesses, plus the collectives that do not overlap with computation (`slices.Slice.seconds`).
Operations without a compiler estimate, such as gathers, are listed and not included.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from flaxcifar.models.summary import model_summary
from flaxcifar.tpu.hlo import Collective, Program
from flaxcifar.tpu.slices import Slice
from flaxcifar.training.step import Recipe

# Shares above which `findings` reports them.
_MUCH_MEMORY, _MUCH_PADDING, _MUCH_COMMUNICATION, _MUCH_REPEATED = 0.5, 0.25, 0.2, 0.25

Figures = dict[str, Any]


def forward_flops(recipe: Recipe, shape: tuple[int, ...], batch: int) -> float:
    """Returns the forward FLOPs of the model's layers for a batch of images (H, W, C)."""
    return batch * model_summary(recipe.network, shape)[1]["flops_per_image"]


def training_flops(recipe: Recipe, shape: tuple[int, ...], batch: int) -> float:
    """Returns the forward and backward FLOPs of the layers for a batch of images (H, W, C).

    If examples are selected, those of a step that also trains the proxy network.
    """

    def of(network: Any, frozen: frozenset[str]) -> float:
        return model_summary(network, shape, frozen)[1]["training_flops_per_image"]

    own, selection = of(recipe.network, recipe.frozen), recipe.selection
    if selection is None:
        return batch * own
    return selection.kept * own + batch * of(selection.network, selection.frozen)


def figures(
    program: Program, part: Slice, memory: int, flops: float, cost: Mapping[str, float], batch: int
) -> Figures:
    """Returns the figures of a step on one chip.

    Args:
      program: the compiled program.
      part: the slice.
      memory: bytes of one chip that the program takes.
      flops: FLOPs of the model's layers on all chips.
      cost: `compiled.cost_analysis()`.
      batch: global batch size.
    """
    chip, products, collectives = part.chip, program.products(), program.collectives()
    multiplied = sum(product.flops for product in products)
    padded = sum(product.padded_flops(chip.tile) for product in products)
    on_chip = program.cycles() / chip.clock
    counts = Counter((each.opcode, each.bytes, each.overlaps) for each in collectives)
    return {
        "batch": batch,
        "memory_bytes": memory,
        "memory_share": memory / chip.memory,
        "model_flops": flops / part.chips,
        "compiler_flops": cost["flops"],
        "padded_flops": padded,
        "padding_share": 1 - multiplied / padded if padded else 0.0,
        "bytes_accessed": cost["bytes accessed"],
        "collectives": [
            {"opcode": opcode, "bytes": size, "count": count, "overlaps": overlaps}
            for (opcode, size, overlaps), count in sorted(counts.items(), key=lambda x: -x[0][1])
        ],
        "sent_bytes": sum(part.sent(each.opcode, each.bytes) for each in collectives),
        "host_transfers": program.host_transfers(),
        "not_estimated": program.not_estimated(),
        "estimated_seconds": {
            "products": padded / chip.peak_flops,
            "compiler": on_chip,
            "communication": exposed(part, collectives),
            "step": on_chip + exposed(part, collectives),
        },
        "estimated_scaling": scaling(part, on_chip, collectives, batch / part.chips),
    }


def exposed(part: Slice, collectives: Sequence[Collective]) -> float:
    """Returns the seconds of the collectives that do not overlap with computation."""
    return sum(part.seconds(each.opcode, each.bytes) for each in collectives if not each.overlaps)


def scaling(
    part: Slice, on_chip: float, collectives: Sequence[Collective], batch: float
) -> list[Figures]:
    """Returns the step time on all slices of the generation, for `batch` images per chip.

    Assumes the collectives of the slice that was compiled for. Empty if that is a single chip.
    """
    rows = []
    for other in part.siblings() if part.chips > 1 else ():
        seconds = on_chip + exposed(other, collectives)
        rate = batch * other.chips / seconds if seconds else 0.0
        efficiency = on_chip / seconds if seconds else 0.0
        row = {"topology": other.name, "chips": other.chips, "step_seconds": seconds}
        rows.append(row | {"images_per_second": rate, "efficiency": efficiency})
    return rows


def largest_batch(part: Slice, one: Figures, other: Figures) -> int | None:
    """Returns the largest batch that fits, from a line through two figures; None if it is flat."""
    slope = (other["memory_bytes"] - one["memory_bytes"]) / (other["batch"] - one["batch"])
    if slope <= 0:
        return None
    more = int((part.chip.memory - one["memory_bytes"]) / slope)
    return max(0, one["batch"] + more) // part.chips * part.chips


def findings(found: Figures, part: Slice) -> list[str]:
    """Returns a line for each noteworthy figure, with advice."""
    lines, seconds = [], found["estimated_seconds"]
    transfers = found["host_transfers"]
    lines.append(
        f"waits for the host: {', '.join(transfers)}" if transfers else "never waits for the host"
    )
    if found["memory_share"] > _MUCH_MEMORY:
        lines.append(f"takes {found['memory_share']:.0%} of the memory: reduce the batch size")
    if found["padding_share"] > _MUCH_PADDING:
        lines.append(
            f"{found['padding_share']:.0%} of the multiplications are padding: channels, and "
            f"images x pixels in kernel gradients, are padded to multiples of {part.chip.tile}"
        )
    repeated = 1 - found["model_flops"] / found["compiler_flops"]
    if repeated > _MUCH_REPEATED:
        lines.append(
            f"{repeated:.0%} of the FLOPs are not the layers', but mostly the optimizer's, which "
            "every chip repeats: a larger batch per chip reduces their share"
        )
    if seconds["communication"] > _MUCH_COMMUNICATION * seconds["step"]:
        lines.append(
            f"{seconds['communication'] / seconds['step']:.0%} of the estimated time is "
            "communication: a larger batch per chip or fewer BatchNorms would reduce it"
        )
    if found["not_estimated"]:
        words = ", ".join(f"{count} {name}" for name, count in found["not_estimated"].items())
        lines.append(f"the compiler has no estimate for {words}: their time is not included")
    return lines
