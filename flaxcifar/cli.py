"""What every command does with its arguments' and its run's mistakes."""

import sys
from collections.abc import Callable

from flaxcifar.errors import RunError, UserError


def run(command: Callable[[list[str]], None]) -> None:
    """Calls `command` with the arguments and exits: 2 for bad input, 1 for a failed run."""
    try:
        command(sys.argv[1:])
    except UserError as error:
        sys.exit(_complain(error, 2))
    except RunError as error:
        sys.exit(_complain(error, 1))


def _complain(error: Exception, code: int) -> int:
    print(f"flaxcifar: {error}", file=sys.stderr)
    return code
