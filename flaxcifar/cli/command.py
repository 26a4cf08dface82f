"""The list of commands, and their common handling of flags and errors."""

import argparse
import functools
import importlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from flaxcifar.components import import_components
from flaxcifar.devices.tpu import has_chips, quiet_libtpu
from flaxcifar.errors import RunError, UserError

# The module of a command is flaxcifar.cli.<name>.
COMMANDS = {
    "train": "train a config, or resume an interrupted run",
    "evaluate": "evaluate the best checkpoint of a run",
    "predict": "classify image files",
    "report": "write the HTML report of a run, or compare runs",
    "board": "show runs in TensorBoard",
    "export": "export a model to safetensors, StableHLO or ONNX",
    "keras_weights": "convert weights from and to Keras files",
    "doctor": "check that this machine can train",
    "verify_resume": "check that killed runs resume exactly",
    "aot": "compile training for a TPU slice without having one",
    "completion": "print a shell completion script",
}


class _Import(argparse.Action):
    """Imports a module or a file for the components that it registers."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        import_components(values)


class Parser(argparse.ArgumentParser):
    """Parses the flags of one command. The help must fit a screen of 24 x 80."""

    def __init__(self, name: str, description: str, usage: str):
        """Creates a parser without flags.

        Args:
          name: the command.
          description: printed verbatim.
          usage: the most important flags.
        """
        super().__init__(
            prog=f"flaxcifar {name}",
            usage=f"%(prog)s {usage}",
            description=description,
            formatter_class=functools.partial(
                argparse.RawDescriptionHelpFormatter, max_help_position=30
            ),
            allow_abbrev=False,
        )
        words = "register components of your own"
        self.add_argument("--import", action=_Import, metavar="MODULE", help=words)

    def add_config(self, words: str = "a shipped config or a Python file", **options: Any) -> None:
        """Adds the flag --config, of which `config.load` reads the value."""
        self.add_argument("--config", metavar="CONFIG", help=words, **options)

    def error(self, message: str) -> NoReturn:
        """Raises UserError instead of printing the usage and exiting."""
        raise UserError(f"{message} (--help lists the flags)")


def load_command(name: str) -> ModuleType:
    """Imports and returns the module of a command; it has `parser()` and `main(argv)`."""
    return importlib.import_module(f"flaxcifar.cli.{name}")


def check_folder(flag: str, path: Path | None) -> None:
    """Raises UserError if the folder that the file `path` would be written to does not exist."""
    if path and not path.absolute().parent.is_dir():
        raise UserError(f"{flag}: there is no folder {path.absolute().parent}")


def run_command(main: Callable[[list[str]], None]) -> None:
    """Calls `main` with the arguments of the process; prints errors in one line and exits.

    The exit code is 2 for bad input, 1 for a failed run and for files that cannot be read or
    written, and 128 + the signal's number after a signal.
    """
    if not has_chips():
        quiet_libtpu()
    try:
        main(sys.argv[1:])
    except (UserError, RunError) as error:
        sys.exit(_complain(error, error.exit_code))
    except KeyboardInterrupt:
        sys.exit(_complain("interrupted", 128 + signal.SIGINT))
    except OSError as error:  # a full disk or a missing directory, for example
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_complain(f"{where}{error.strerror or error}", 1))


def _complain(error: object, code: int) -> int:
    print(f"flaxcifar: {error}", file=sys.stderr)
    return code
