"""What every command does with its arguments' and its run's mistakes."""

import signal
import sys
from collections.abc import Callable

from flaxcifar.errors import RunError, UserError


def run(command: Callable[[list[str]], None]) -> None:
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
