"""The command line: `flaxcifar COMMAND ...` or `python -m flaxcifar COMMAND ...`."""

import sys

from flaxcifar import __version__
from flaxcifar.cli.command import COMMANDS, load_command, run_command
from flaxcifar.devices.memory import restart_with_huge_pages
from flaxcifar.errors import UserError, suggestion

_EXAMPLE = "flaxcifar train --config quickstart --workdir runs/first"


def main() -> None:
    """Runs the command that the first argument names; imports only that command."""
    if sys.argv[1:2] == ["train"]:
        restart_with_huge_pages()
    run_command(_run)


def _run(argv: list[str]) -> None:
    name, *flags = argv or ["--help"]
    if name in ("-h", "--help"):
        lines = [f"    {key:<14} {words}" for key, words in COMMANDS.items()]
        print("usage: flaxcifar COMMAND ... (COMMAND --help lists its flags)", "", sep="\n")
        print(*lines, "", f"    {_EXAMPLE}", sep="\n")
    elif name == "--version":
        print(f"flaxcifar {__version__}")
    elif name in COMMANDS:
        load_command(name).main(flags)
    else:
        known = ", ".join(COMMANDS)
        raise UserError(f"no command {name!r}{suggestion(name, COMMANDS)} (there are: {known})")


if __name__ == "__main__":
    main()
