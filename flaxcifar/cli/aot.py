"""Compiles training for a TPU that is not there.

    flaxcifar aot --config configs/vgg.py --topology v5e:4x4

The steps are those that training runs; their memory, operations, communication
and time are what the compiler says of them, and estimates. Needs
pip install -e ".[aot]", no TPU and no dataset.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import time
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from flaxcifar import config as configs
from flaxcifar import console
from flaxcifar.cli.command import Parser, check_folder
from flaxcifar.data.dataset import Dataset
from flaxcifar.devices import parallel
from flaxcifar.errors import RunError, UserError
from flaxcifar.tpu import estimate, shapes
from flaxcifar.tpu.hlo import Program
from flaxcifar.tpu.out_of_memory import memory_of
from flaxcifar.tpu.slices import Slice
from flaxcifar.training import experiment
from flaxcifar.workdir.json_files import write_json

# A slice of one has no host with four chips; libtpu wants to know.
_SINGLE = {"chips_per_host_bounds": (1, 1, 1)}
# What libtpu would ask its host and the network for, and say on stderr.
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # Nothing runs, so that several may compile at once.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def devices(part: Slice) -> tuple[jax.Device, ...]:
    """Returns the devices of a slice, which can be compiled for and nothing else.

    Raises UserError where libtpu is missing or does not know the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu, the compiler for TPUs, is missing: pip install -e '.[aot]'")
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    options = _SINGLE if part.chips == 1 else {}
    try:
        found = topologies.get_topology_desc(part.name, "tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        words = str(error).partition("\n")[0]
        raise UserError(f"libtpu does not describe {part.name} here: {words}") from error
    return tuple(found.devices)


def fitted(config: Any, chips: int) -> list[str]:
    """Makes the config's batches, in place, divide over the chips; returns lines that say so."""
    remarks = []
    for key in ("batch_size", "eval_batch_size"):
        batch = -(-config[key] // chips) * chips
        if batch != config[key]:
            remarks.append(
                f"{key}={config[key]} does not divide over {chips} chips: {batch} is compiled"
            )
        config[key] = batch
    return remarks


def examine(step: shapes.Lowered, part: Slice, keep: Path | None = None) -> estimate.Figures:
    """Compiles a step and returns its figures; `keep` is a folder for the compiled program's text.

    Raises RunError where it does not fit the chip.
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
    seconds, text, size = time.monotonic() - begun, compiled.as_text(), compiled.memory_analysis()
    if keep:
        (keep / f"{part.name.replace(':', '-')}-{step.kind}.hlo.txt").write_text(text)
    program, cost = Program(text, looped=step.looped), compiled.cost_analysis()
    found = estimate.figures(program, part, memory_of(size), step.flops, cost, step.batch)
    return {"step": step.kind, **found, "compile_seconds": seconds}


def show(found: estimate.Figures, part: Slice, title: str) -> None:
    """Prints a step's figures, its scaling and what there is to say about them."""
    chip, seconds = part.chip, found["estimated_seconds"]
    total = sum(each["count"] for each in found["collectives"])
    rows = {
        "images": f"{found['batch'] // part.chips:,} of {found['batch']:,}",
        "memory": f"{found['memory_bytes'] / 2**20:,.0f} MiB, {found['memory_share']:.1%} of "
        f"{chip.memory >> 30} GiB",
        "operations of the layers": f"{found['model_flops'] / 1e9:,.2f} G",
        "operations by the compiler": f"{found['compiler_flops'] / 1e9:,.2f} G",
        "multiplications of padding": f"{found['padding_share']:.1%}",
        "memory traffic at most": f"{found['bytes_accessed'] / 1e6:,.0f} MB",
        "sent to other chips": f"{found['sent_bytes'] / 1e6:,.2f} MB in {total} collectives",
        "products at peak rate (estimate)": _milliseconds(seconds["products"]),
        "all operations (compiler's estimate)": _milliseconds(seconds["compiler"]),
        "communication (estimate)": _milliseconds(seconds["communication"]),
        "step (estimate)": _milliseconds(seconds["step"]),
    }
    console.show(console.table(title, ("one chip, one step", ""), list(rows.items())))
    if found["estimated_scaling"]:
        cells = [
            (
                row["topology"],
                _milliseconds(row["step_seconds"]),
                f"{row['images_per_second']:,.0f}",
                f"{row['efficiency']:.0%}",
            )
            for row in found["estimated_scaling"]
        ]
        heading = (
            f"{found['batch'] // part.chips} images a chip",
            "step",
            "images/s",
            "efficiency",
        )
        console.show(console.table("Scaling (an estimate)", heading, cells))
    for line in estimate.findings(found, part):
        console.say(f"{found['step']}: {line}")


def largest_batch(
    config: Any, dataset: Dataset, part: Slice, found: estimate.Figures
) -> int | None:
    """Returns and prints the largest batch that fits, by compiling a larger one than the config's.

    It is None where memory does not grow with it. `config` is changed.
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
    if largest is None:
        console.say("largest batch: no estimate, as no larger one takes more memory and fits")
        return None
    sizes = " and ".join(f"{one['memory_bytes'] / 2**20:,.0f} MiB" for one in (found, more))
    basis = f"a line through {batch:,} and {more['batch']:,} images, which take {sizes}"
    words = f"{largest:,}" if largest < most else f"{most:,}, all training images,"
    console.say(f"largest batch: {words} by an estimate: {basis}")
    return min(largest, most)


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.3f} ms"


def report(flags: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """Compiles both steps, prints their figures and returns them with their circumstances."""
    part = Slice.parse(flags.topology)
    config = configs.load(flags.config, overrides)
    # The slice is no backend: what suits this machine's processor must not be chosen.
    config.ops.convolution = "xla"
    dataset = shapes.blank(config.data.name, config.data.image_size, flags.classes, flags.examples)
    with parallel.using(devices(part)):
        for line in fitted(config, part.chips):
            console.say(line)
        exp = experiment.build(config, dataset)
        results = []
        for step in (shapes.training(exp), shapes.evaluation(exp)):
            results.append(examine(step, part, flags.keep))
            show(results[-1], part, f"{step.kind} step of {flags.config} on {part.name}")
        largest = None
        if flags.largest_batch:
            largest = largest_batch(config, dataset, part, results[0])
    packages = ("jax", "jaxlib", "libtpu")
    return {
        "config": flags.config,
        "overrides": overrides,
        "topology": part.name,
        "chips": part.chips,
        "steps": results,
        "estimated_largest_batch": largest,
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def parser() -> Parser:
    """Returns the flags; what it leaves are values of config keys."""
    result = Parser("aot", __doc__, "--config FILE [--config.KEY=VALUE ...] [FLAGS]")
    add = result.add_argument
    add("--config", required=True, metavar="FILE", help="a Python file that has get_config()")
    words = "v5e:1x1, v6e:16x16, v5p:2x2x1, ...; default v5e:4x4"
    add("--topology", default="v5e:4x4", metavar="NAME", help=words)
    add("--classes", type=int, metavar="N", help="where the dataset is none of CIFAR")
    add("--examples", type=int, metavar="N", help="training images, the same")
    add("--largest_batch", action="store_true", help="compile for it once more")
    add("--output", type=Path, metavar="FILE", help="all figures, as JSON")
    add("--keep", type=Path, metavar="DIR", help="for the compiled programs' text")
    return result


def main(argv: list[str]) -> None:
    """Prints the figures, and writes them where asked."""
    flags, overrides = parser().parse_known_args(argv)
    if flags.keep and not flags.keep.is_dir():
        raise UserError(f"--keep {flags.keep} is no folder")
    check_folder("--output", flags.output)
    # Whoever compiles for a TPU runs nothing on it, nor looks for one.
    jax.config.update("jax_platforms", "cpu")
    figures = report(flags, overrides)
    if flags.output:
        write_json(flags.output, figures)
        console.say(f"figures: {flags.output}")
