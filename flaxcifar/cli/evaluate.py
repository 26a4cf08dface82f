"""Evaluates the best checkpoint of a run.

    flaxcifar evaluate --workdir runs/first --split validation

Each example counts once, on any number of devices.
"""

from flaxcifar import console
from flaxcifar.cli.command import Parser
from flaxcifar.inference.evaluate import evaluate
from flaxcifar.inference.trained import Trained
from flaxcifar.training.results import results_table
from flaxcifar.training.test_time import WEIGHTS


def parser() -> Parser:
    """Returns the flags."""
    result = Parser("evaluate", __doc__, "--workdir DIR [FLAGS]")
    add = result.add_argument
    add("--workdir", required=True, metavar="DIR", help="the workdir of a run")
    add("--split", default="test", choices=("train", "validation", "test"), help="default: test")
    add("--views", choices=tuple(WEIGHTS), help="default: test_views of the run's config")
    add("--strict", action="store_true", help="fail if the newest checkpoint is damaged")
    return result


def main(argv: list[str]) -> None:
    """Prints a table of the metrics."""
    flags = parser().parse_args(argv)
    trained = Trained.from_workdir(flags.workdir, strict=flags.strict)
    values = evaluate(trained, flags.split, flags.views)
    results = {flags.split: values["single"], f"{flags.split}, views": values.get("augmented")}
    console.show(results_table(f"best checkpoint of {flags.workdir}", results))
