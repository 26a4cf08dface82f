"""Every command of the package by its name: flaxcifar COMMAND ..."""

import runpy
import sys

from flaxcifar import __version__
from flaxcifar.cli.command import run_command
from flaxcifar.errors import UserError, suggestion

# Of each command its module and what it does.
COMMANDS = {
    "train": ("main", "train a config, or go on where that was interrupted"),
    "evaluate": ("training.evaluation", "evaluate the best checkpoint of a run"),
    "predict": ("inference.predict", "classify images"),
    "report": ("report", "write the page of a run, or of several side by side"),
    "board": ("cli.board", "show runs in TensorBoard"),
    "export": ("inference.export", "write a model for use without flaxcifar"),
    "keras_weights": ("keras_weights.convert", "read networks from Keras files, and write them"),
    "doctor": ("cli.doctor", "look at what a run needs on this machine"),
    "verify_resume": ("cli.verify_resume", "show that a run that is killed goes on exactly"),
    "aot": ("cli.aot", "compile training for a TPU that is not there"),
    "completion": ("cli.completion", "print what makes a shell complete all of these"),
}

_EXAMPLE = "flaxcifar train --config configs/quickstart.py --workdir runs/first"


def main() -> None:
    """Runs a command exactly as `python -m flaxcifar.<module>` does."""
    run_command(_run)


def _run(argv: list[str]) -> None:
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        lines = [f"    {key:<14} {words}" for key, (_, words) in COMMANDS.items()]
        print("usage: flaxcifar COMMAND ... (COMMAND --help lists its flags)", "", sep="\n")
        print(*lines, "", f"    {_EXAMPLE}", sep="\n")
    elif name == "--version":
        print(f"flaxcifar {__version__}")
    elif name in COMMANDS:
        del sys.argv[1]
        runpy.run_module(f"flaxcifar.{COMMANDS[name][0]}", run_name="__main__")
    else:
        known = ", ".join(COMMANDS)
        raise UserError(f"no command {name!r}{suggestion(name, COMMANDS)} (there are: {known})")


if __name__ == "__main__":
    main()
