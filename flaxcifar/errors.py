"""Every exception that crosses a folder, and suggestions for misspelt names.

A command prints such an exception as one line on standard error and exits with its `exit_code`.
"""

import difflib
import signal
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """Bad input. The message says what is wrong, what would be right and what was kept."""

    exit_code = 2


class RunError(Exception):
    """A run failed although its input was good."""

    exit_code = 1


class NonFiniteError(RunError):
    """The training state is not worth saving: some of its numbers are not finite."""


class OutOfMemoryError(RunError):
    """A training step does not fit into a device's memory."""

    def __init__(self, message: str, experiment: Any):
        """`experiment` is the `training.experiment.Experiment` of the run."""
        super().__init__(message)
        self.experiment = experiment


class Interrupted(RunError):
    """A signal ended the run. As in a shell, the exit code is 128 + the signal's number."""

    def __init__(self, number: int):
        super().__init__(f"{signal.Signals(number).name}: stopped; the same command goes on")
        self.exit_code = 128 + number


def suggestion(word: str, choices: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` for the closest choice, or an empty string."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
