"""The one exception that stands for a mistake of the user's."""


class UserError(Exception):
    """Bad input: one line that says what is wrong, what would be right and what was kept.

    Every command turns it into that line on standard error and exit code 2.
    """


class RunError(Exception):
    """A run that cannot go on although its input was good; exit code 1."""
