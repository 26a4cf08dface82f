"""The exceptions that end a command with one line on standard error, and its exit code."""


class UserError(Exception):
    """Bad input: one line that says what is wrong, what would be right and what was kept."""

    exit_code = 2


class RunError(Exception):
    """A run that cannot go on although its input was good."""

    exit_code = 1
