"""Compiles training and evaluation steps for a TPU slice, on a machine without one."""

import importlib.util
import os
import time
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from flaxcifar import console
from flaxcifar.data.dataset import Dataset
from flaxcifar.devices.tpu import quiet_libtpu
from flaxcifar.errors import RunError, UserError
from flaxcifar.tpu import estimate, shapes
from flaxcifar.tpu.hlo import Program
from flaxcifar.tpu.out_of_memory import memory_of
from flaxcifar.tpu.slices import Slice
from flaxcifar.training import experiment

# By default libtpu assumes hosts with four chips, which a slice of one chip does not have.
_SINGLE = {"chips_per_host_bounds": (1, 1, 1)}
_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # Several processes may compile at once, since none runs anything.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def devices(part: Slice) -> tuple[jax.Device, ...]:
    """Returns the devices of a slice. They can be compiled for, but not used.

    Raises:
      UserError: libtpu is missing or does not know the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu, the compiler for TPUs, is missing: pip install -e '.[aot]'")
    quiet_libtpu()
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    options = _SINGLE if part.chips == 1 else {}
    try:
        found = topologies.get_topology_desc(part.name, "tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        words = str(error).partition("\n")[0]
        raise UserError(f"libtpu does not describe {part.name} here: {words}") from error
    return tuple(found.devices)


def fit_batches(config: Any, chips: int) -> list[str]:
    """Rounds the batch sizes of `config`, in place, up to a multiple of the chips.

    Returns:
      A line for each size that was changed.
    """
    remarks = []
    for key in ("batch_size", "eval_batch_size"):
        batch = -(-config[key] // chips) * chips
        if batch != config[key]:
            remarks.append(
                f"{key}={config[key]} does not divide over {chips} chips: compiling {batch} instead"
            )
        config[key] = batch
    return remarks


def examine(step: shapes.Lowered, part: Slice, keep: Path | None = None) -> estimate.Figures:
    """Compiles a step and returns its figures.

    Args:
      step: the step.
      part: the slice whose devices it is compiled for.
      keep: folder for the text of the compiled program; None to drop it.

    Raises:
      RunError: the step does not fit into the memory of a chip.
    """
    console.say(f"compiling the {step.kind} step for {part.name}: this may take minutes")
    begun = time.monotonic()
    try:
        compiled = step.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        words = str(error).partition("\n")[0]
        raise RunError(f"batch {step.batch} does not fit {part.name} ({words})") from error
    seconds, size = time.monotonic() - begun, compiled.memory_analysis()
    text, cost = compiled.as_text() or "", compiled.cost_analysis() or {}
    if keep:
        (keep / f"{part.name.replace(':', '-')}-{step.kind}.hlo.txt").write_text(text)
    program = Program(text, looped=step.looped)
    found = estimate.figures(program, part, memory_of(size), step.flops, cost, step.batch)
    return {"step": step.kind, **found, "compile_seconds": seconds}


def largest_batch(
    config: Any, dataset: Dataset, part: Slice, found: estimate.Figures
) -> int | None:
    """Returns the largest batch that fits, extrapolated from a second, larger one.

    Prints the result with its basis.

    Args:
      config: the config of `found`; its batch size is changed.
      dataset: its dataset, which limits the batch.
      part: the slice.
      found: the figures of the training step.

    Returns:
      The global batch size, or None if memory does not grow with it.
    """
    batch = found["batch"]
    most = len(experiment.build(config, dataset).train_indices) // part.chips * part.chips
    more, size = None, min(most, 16 * batch)
    while more is None and size > batch:
        config.batch_size = size
        try:
            more = examine(shapes.training(experiment.build(config, dataset)), part)
        except RunError as error:
            console.say(str(error))
            size = size // 2 // part.chips * part.chips
    largest = estimate.largest_batch(part, found, more) if more else None
    if more is None or largest is None:
        console.say("largest batch: no estimate, since no larger batch takes more memory and fits")
        return None
    sizes = " and ".join(f"{one['memory_bytes'] / 2**20:,.0f} MiB" for one in (found, more))
    basis = f"a line through {batch:,} and {more['batch']:,} images, which take {sizes}"
    words = f"{largest:,}" if largest < most else f"{most:,}, all training images,"
    console.say(f"largest batch (estimate): {words} by {basis}")
    return min(largest, most)
