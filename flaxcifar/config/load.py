"""Reading a config: its Python file, and the command line's overrides."""

import ast
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flaxcifar.config.check import check
from flaxcifar.config.defaults import default_config, from_json, plain
from flaxcifar.config.knobs import NAMED, type_words
from flaxcifar.errors import UserError


def load(path: str | Path, overrides: Sequence[str] = ()) -> ConfigDict:
    """Returns the config of a Python file's `get_config()` with `overrides` applied, checked.

    An override is `--config.any.key=value`, or the same as two arguments. Where the key holds a
    string the value is taken as it is; else it is a Python literal (`0.1`, `true`, `(60, 120)`).
    Another name for a model, optimizer or schedule drops the keywords of the one in the file (an
    optimizer keeps its learning rate). Raises UserError for whatever is wrong with either.
    """
    config = plain(_get_config(Path(path)))
    assignments = _assignments(overrides)
    for key, text in assignments.items():
        section, _, leaf = key.rpartition(".")
        if section in NAMED and leaf == "name" and isinstance(config.get(section), dict):
            if text != config[section].get("name"):
                kept = {"learning_rate"} & config[section].keys() if section == "optimizer" else ()
                config[section] = {k: config[section][k] for k in kept}
                config[section]["name"] = text
    for key, text in assignments.items():
        _assign(config, key, text)
    config = _filled(config, plain(default_config()))
    check(config)
    return from_json(config)


def _get_config(path: Path) -> Mapping:
    """Runs the file; whatever it raises becomes one line with the file's line number."""
    if not path.is_file():
        raise UserError(f"there is no config file {str(path)!r}")
    scope: dict[str, Any] = {"__name__": "config", "__file__": str(path)}
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), scope)
        if not callable(scope.get("get_config")):
            raise UserError(f"{path} defines no function get_config()")
        config = scope["get_config"]()
    except UserError:
        raise
    except Exception as error:
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)
        ]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        raise UserError(
            f"{where}: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(config, Mapping | ConfigDict):
        raise UserError(f"get_config() of {path} returns a {type(config).__name__}, not a config")
    return config


def _assignments(overrides: Sequence[str]) -> dict[str, str]:
    """Returns {dotted key: text} of the arguments; the last one of a key counts."""
    result, arguments = {}, list(overrides)
    while arguments:
        argument = arguments.pop(0)
        key, equals, text = argument.removeprefix("--config.").partition("=")
        if not argument.startswith("--config.") or not all(key.split(".")):
            raise UserError(f"unknown argument {argument!r}: expected --config.some.key=value")
        if not equals:
            if not arguments or arguments[0].startswith("--"):
                raise UserError(f"{argument} needs a value: {argument}=value")
            text = arguments.pop(0)
        result[key] = text
    return result


def _assign(config: dict, key: str, text: str) -> None:
    """Sets the dotted `key`, in place, to what `text` means there."""
    *parents, leaf = key.split(".")
    for depth, parent in enumerate(parents, 1):
        config = config.setdefault(parent, {})
        if not isinstance(config, dict):
            above = "config." + ".".join(parents[:depth])
            raise UserError(f"{above} is no section: set it as a whole, --{above}=value")
    current = config.get(leaf)
    if isinstance(current, str):
        config[leaf] = text
        return
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = text
    if isinstance(current, int | float) and isinstance(value, str):
        raise UserError(f"config.{key} is {text!r}, not {type_words(current)}")
    config[leaf] = plain(value)


def _filled(config: Any, default: Any) -> Any:
    """Returns `config` with missing keys at their defaults, and integers as floats where due."""
    if isinstance(config, dict) and isinstance(default, dict):
        named = config.keys() & set(NAMED)
        return default | {
            key: value if key in named else _filled(value, default.get(key))
            for key, value in config.items()
        }
    return float(config) if isinstance(default, float) and type(config) is int else config
