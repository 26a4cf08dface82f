"""The exceptions that cross folders, and suggestions for misspelt names.

A command prints such an exception as one line on standard error and exits with its `exit_code`.
"""

import difflib
import signal
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """Invalid input: a config, flag, file or workdir.

    The message says what is wrong, what is expected and, if work was done, what was kept.
    """

    exit_code = 2


class RunError(Exception):
    """A run failed on valid input."""

    exit_code = 1


class NonFiniteError(RunError):
    """The training state is not worth saving: its loss or parameters are not finite."""


class OutOfMemoryError(RunError):
    """A training step does not fit into the memory of a device."""

    def __init__(self, message: str, experiment: Any):
        """`experiment` is the `training.experiment.Experiment` of the run."""
        super().__init__(message)
        self.experiment = experiment


class Interrupted(RunError):
    """A signal ended the run. As in a shell, the exit code is 128 + the signal's number."""

    def __init__(self, number: int):
        super().__init__(f"{signal.Signals(number).name}: stopped; the same command resumes it")
        self.exit_code = 128 + number


def suggestion(word: str, choices: Iterable[str]) -> str:
    """Returns "; did you mean 'x'?" for the closest choice, or "" if none is close."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
