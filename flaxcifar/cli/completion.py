"""Prints what makes a shell complete the commands, their flags and config keys.

    flaxcifar completion bash >> ~/.bash_completion
    flaxcifar completion zsh > ~/.zfunc/_flaxcifar      with ~/.zfunc in fpath
    flaxcifar completion fish > ~/.config/fish/completions/flaxcifar.fish

A new shell has it.
"""

import argparse

import shtab

from flaxcifar.cli.command import COMMANDS, Parser, load_command
from flaxcifar.config import default_config, to_json
from flaxcifar.config.changes import flatten

# What is completed after a flag, by what its help calls the value.
KINDS = {"FILE": shtab.FILE, "IMAGE_OR_FOLDER": shtab.FILE, "DIR": shtab.DIRECTORY}


def all_commands() -> argparse.ArgumentParser:
    """Returns a parser of `flaxcifar COMMAND ...` with the flags of every command."""
    whole = argparse.ArgumentParser(prog="flaxcifar")
    commands = whole.add_subparsers(metavar="COMMAND")
    for name, words in COMMANDS.items():
        flags = load_command(name).parser()
        takes_keys = False
        for action in flags._actions:  # argparse has no other way to list them
            if action.metavar in KINDS:
                action.complete = KINDS[action.metavar]
            takes_keys |= action.dest == "config"
        if takes_keys:
            for key in flatten(to_json(default_config())):
                flags.add_argument(f"--config.{key}", metavar="VALUE")
        commands.add_parser(name, help=words, parents=[flags], conflict_handler="resolve")
    return whole


def script(shell: str) -> str:
    """Returns what `shell`, one of shtab's, is to read."""
    return shtab.complete(all_commands(), shell)


def parser() -> Parser:
    """Returns the flags."""
    result = Parser("completion", __doc__, "SHELL")
    result.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    return result


def main(argv: list[str]) -> None:
    """Prints a script."""
    print(script(parser().parse_args(argv).shell))
