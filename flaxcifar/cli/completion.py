"""Prints a completion script for a shell.

    flaxcifar completion bash >> ~/.bash_completion
    flaxcifar completion zsh > ~/.zfunc/_flaxcifar      with ~/.zfunc in fpath
    flaxcifar completion fish > ~/.config/fish/completions/flaxcifar.fish

Completes commands, their flags and config keys with their values. Start a new
shell to use it.
"""

import argparse

import shtab

from flaxcifar.cli.command import COMMANDS, Parser, load_command
from flaxcifar.config import default_config, to_json
from flaxcifar.config.changes import flatten
from flaxcifar.config.knobs import KNOBS
from flaxcifar.config.load import shipped
from flaxcifar.data.sources import SOURCES
from flaxcifar.models import MODELS
from flaxcifar.optim import SCHEDULES
from flaxcifar.optim.optimizers import optimizer_names

_CONFIGS = " ".join(shipped())
# Completion of a flag's value, by the metavar of the flag.
KINDS = {
    "FILE": shtab.FILE,
    "IMAGE_OR_FOLDER": shtab.FILE,
    "DIR": shtab.DIRECTORY,
    # The shipped configs and files.
    "CONFIG": shtab.FILE
    | {
        "bash": "_flaxcifar_configs",
        "zsh": f"{{compadd {_CONFIGS}; _files}}",
        "fish": f"(string split ' ' '{_CONFIGS}'; __fish_complete_path (commandline -ct))",
        "preamble": {"bash": f'_flaxcifar_configs() {{ compgen -f -W "{_CONFIGS}" -- $1; }}'},
    },
}


def all_commands() -> argparse.ArgumentParser:
    """Returns a parser of `flaxcifar COMMAND ...` with the flags of every command."""
    whole = argparse.ArgumentParser(prog="flaxcifar")
    commands = whole.add_subparsers(metavar="COMMAND")
    for name, words in COMMANDS.items():
        flags = load_command(name).parser()
        actions = flags._actions  # argparse has no public list of them
        for action in actions:
            if action.metavar in KINDS:
                action.complete = KINDS[action.metavar]
        if any(action.dest == "config" for action in actions):
            _add_config_keys(flags)
        commands.add_parser(name, help=words, parents=[flags], conflict_handler="resolve")
    return whole


def _add_config_keys(flags: argparse.ArgumentParser) -> None:
    """Adds a flag for every config key, described as its declaration documents it."""
    registered = {
        "data.name": SOURCES.names(),
        "model.name": MODELS.names(),
        "proxy.name": MODELS.names(),
        "optimizer.name": optimizer_names(),
        "schedule.name": SCHEDULES.names(),
    }
    for key in flatten(to_json(default_config())):
        # `model.name` and the like are parts of the knob `model`.
        knob = KNOBS.get(key) or KNOBS[key.partition(".")[0]]
        choices = registered.get(key) or (knob.rule.choices if knob.rule else ())
        words = knob.doc.replace("`", "").replace("%", "%%")
        flags.add_argument(f"--config.{key}", metavar="VALUE", choices=choices or None, help=words)


def script(shell: str) -> str:
    """Returns the completion script of one of shtab's shells."""
    return shtab.complete(all_commands(), shell)


def parser() -> Parser:
    """Returns the flags."""
    result = Parser("completion", __doc__, "SHELL")
    result.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    return result


def main(argv: list[str]) -> None:
    """Prints the script."""
    print(script(parser().parse_args(argv).shell))
