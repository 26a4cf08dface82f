"""Compiles training for a TPU slice, on a machine without one.

    flaxcifar aot --config vgg --topology v5e:4x4

Prints the memory, operations, communication and estimated time of the very
steps that training runs. Needs pip install -e ".[aot]", but neither a TPU nor
the dataset.
"""

import argparse
import importlib.metadata
from pathlib import Path
from typing import Any

import jax

from flaxcifar import config as configs
from flaxcifar import console
from flaxcifar.cli.command import Parser, check_folder
from flaxcifar.devices import parallel
from flaxcifar.errors import UserError
from flaxcifar.tpu import estimate, shapes
from flaxcifar.tpu.compile import devices, examine, fit_batches, largest_batch
from flaxcifar.tpu.slices import Slice
from flaxcifar.training import experiment
from flaxcifar.workdir.json_files import write_json


def parser() -> Parser:
    """Returns the flags; unknown arguments are values of config keys."""
    result = Parser("aot", __doc__, "--config CONFIG [--config.KEY=VALUE ...] [FLAGS]")
    add = result.add_argument
    result.add_config(required=True)
    words = "v5e:1x1, v6e:16x16, v5p:2x2x1, ...; default v5e:4x4"
    add("--topology", default="v5e:4x4", metavar="NAME", help=words)
    add("--classes", type=int, metavar="N", help="needed unless the dataset is CIFAR")
    add("--examples", type=int, metavar="N", help="training images, likewise")
    add("--largest_batch", action="store_true", help="estimate it by compiling once more")
    add("--output", type=Path, metavar="FILE", help="write all figures as JSON")
    add("--keep", type=Path, metavar="DIR", help="write the text of the compiled programs")
    return result


def main(argv: list[str]) -> None:
    """Compiles the steps, prints their figures and writes them to --output."""
    flags, overrides = parser().parse_known_args(argv)
    if flags.keep and not flags.keep.is_dir():
        raise UserError(f"--keep: there is no folder {flags.keep}")
    check_folder("--output", flags.output)
    # Nothing runs on a TPU here, so JAX need not look for one.
    jax.config.update("jax_platforms", "cpu")
    figures = report(flags, overrides)
    if flags.output:
        write_json(flags.output, figures)
        console.say(f"figures: {flags.output}")


def report(flags: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """Compiles both steps, prints their figures and returns them with the versions in use."""
    part = Slice.parse(flags.topology)
    config = configs.load(flags.config, overrides)
    # "auto" would choose the backend for the processor of this machine.
    config.ops.convolution = "xla"
    dataset = shapes.blank(config.data.name, config.data.image_size, flags.classes, flags.examples)
    with parallel.using(devices(part)):
        for line in fit_batches(config, part.chips):
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


def show(found: estimate.Figures, part: Slice, title: str) -> None:
    """Prints the figures of a step, its scaling and the findings."""
    chip, seconds = part.chip, found["estimated_seconds"]
    total = sum(each["count"] for each in found["collectives"])
    rows = {
        "images": f"{found['batch'] // part.chips:,} of {found['batch']:,}",
        "memory": f"{found['memory_bytes'] / 2**20:,.0f} MiB, {found['memory_share']:.1%} of "
        f"{chip.memory >> 30} GiB",
        "FLOPs of the layers": f"{found['model_flops'] / 1e9:,.2f} G",
        "FLOPs by the compiler": f"{found['compiler_flops'] / 1e9:,.2f} G",
        "multiplications of padding": f"{found['padding_share']:.1%}",
        "memory traffic, at most": f"{found['bytes_accessed'] / 1e6:,.0f} MB",
        "sent to other chips": f"{found['sent_bytes'] / 1e6:,.2f} MB in {total} collectives",
        "products at peak rate (estimate)": _milliseconds(seconds["products"]),
        "all operations (compiler's estimate)": _milliseconds(seconds["compiler"]),
        "communication (estimate)": _milliseconds(seconds["communication"]),
        "step (estimate)": _milliseconds(seconds["step"]),
    }
    console.show(console.table(title, ("one chip, one step", ""), rows.items()))
    cells = [
        (
            row["topology"],
            _milliseconds(row["step_seconds"]),
            f"{row['images_per_second']:,.0f}",
            f"{row['efficiency']:.0%}",
        )
        for row in found["estimated_scaling"]
    ]
    if cells:
        first = f"{found['batch'] // part.chips} images per chip"
        headings = (first, "step", "images/s", "efficiency")
        console.show(console.table("Scaling (estimate)", headings, cells))
    for line in estimate.findings(found, part):
        console.say(f"{found['step']}: {line}")


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.3f} ms"
