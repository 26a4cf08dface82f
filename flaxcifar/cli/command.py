"""What every command has in common: its help, and what it does with mistakes."""

import argparse
import functools
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from flaxcifar.errors import RunError, UserError


class Parser(argparse.ArgumentParser):
    """Of the flags of `python -m flaxcifar.<name>`; help is to fit a screen of 24 x 80."""

    def __init__(self, name: str, description: str, usage: str):
        """`description` is printed as it is; `usage` are the flags that matter most."""
        super().__init__(
            prog=f"python -m flaxcifar.{name}",
            usage=f"%(prog)s {usage}",
            description=description,
            formatter_class=functools.partial(
                argparse.RawDescriptionHelpFormatter, max_help_position=30
            ),
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raises UserError: a mistake is one line here, too."""
        raise UserError(f"{message} (--help lists the flags)")


def check_folder(flag: str, path: Path | None) -> None:
    """Raises UserError where a file is to be written into a folder that is not there."""
    if path and not path.absolute().parent.is_dir():
        raise UserError(f"{flag}: there is no folder {path.absolute().parent}")


def run_command(command: Callable[[list[str]], None]) -> None:
    """Calls `command` with the arguments; exits with 2 for bad input, 1 for a failed run.

    A signal's exit code is 128 + its number. Files that cannot be read or written fail a run.
    """
    try:
        command(sys.argv[1:])
    except (UserError, RunError) as error:
        sys.exit(_complain(error, error.exit_code))
    except KeyboardInterrupt:
        sys.exit(_complain("interrupted", 128 + signal.SIGINT))
    except OSError as error:  # a full disk, a directory that is gone
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_complain(f"{where}{error.strerror or error}", 1))


def _complain(error: object, code: int) -> int:
    print(f"flaxcifar: {error}", file=sys.stderr)
    return code
