"""Loads a shipped config or a Python file and applies overrides."""

import ast
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flaxcifar.config.check import check
from flaxcifar.config.defaults import filled, from_json, plain
from flaxcifar.config.knobs import NAMED
from flaxcifar.errors import UserError, suggestion
from flaxcifar.rules import describe

# The shipped configs are in a package that was installed from a wheel, and next to a clone's.
_WHEEL, _CLONE = (folder / "configs" for folder in Path(__file__).parents[1:3])
_SHIPPED = _WHEEL if _WHEEL.is_dir() else _CLONE


def shipped() -> list[str]:
    """Returns the names of the shipped configs."""
    return sorted(path.stem for path in _SHIPPED.glob("*.py"))


def load(
    path_or_name: str | Path,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """Returns the validated config of a Python file, with overrides applied.

    Args:
      path_or_name: a Python file that defines `get_config()`, or the name of a shipped config. Text
        with a path separator or the suffix `.py` is a path.
      overrides: arguments `--config.some.key=value`, or key and value as two arguments. The value
        of a string key is taken literally. All others are Python literals (`0.1`, `true`,
        `(60, 120)`, `dict(name="cutout", size=8)`). Choosing another model, optimizer or schedule
        by name drops the keywords of the previous one, except an optimizer's learning rate.
      values: overrides as Python values by dotted key, or nested: {"optimizer": {"decay": 0.1}}.

    Raises:
      UserError: there is no such config, its file cannot be run, or a key or value is invalid.
    """
    config = plain(_get_config(_find(str(path_or_name))))
    texts, flat = _assignments(overrides), dict(_flat("", values or {}))
    _rename(config, flat | texts)
    for key, value in flat.items():
        section, leaf = _section(config, key)
        section[leaf] = plain(value)
    for key, text in texts.items():
        section, leaf = _section(config, key)
        section[leaf] = _parse(key, text, section.get(leaf))
    config = filled(config)
    check(config)
    return from_json(config)


def _find(path_or_name: str) -> Path:
    if path_or_name.endswith(".py") or {"/", os.sep} & set(path_or_name):
        return Path(path_or_name)
    names = shipped()
    if path_or_name not in names:
        raise UserError(
            f"no config {path_or_name!r}{suggestion(path_or_name, names)} (there are: "
            f"{', '.join(names)}; a file of yours needs its .py)"
        )
    return _SHIPPED / f"{path_or_name}.py"


def _get_config(path: Path) -> Mapping:
    """Runs the file. Exceptions become a one-line UserError with the line number."""
    if not path.is_file():
        raise UserError(f"{path}: no such config file")
    scope: dict[str, Any] = {"__name__": "config", "__file__": str(path)}
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), scope)
        if not callable(scope.get("get_config")):
            raise UserError(f"{path} must define a function get_config()")
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
        raise UserError(f"{path}: get_config() must return a config, got {type(config).__name__}")
    return config


def _assignments(overrides: Sequence[str]) -> dict[str, str]:
    """Parses the arguments into {dotted key: text}. The last value of a key wins."""
    result, arguments = {}, list(overrides)
    while arguments:
        argument = arguments.pop(0)
        key, equals, text = argument.removeprefix("--config.").partition("=")
        if not argument.startswith("--config.") or not all(key.split(".")):
            raise UserError(f"unknown argument {argument!r}: expected --config.KEY=VALUE")
        if not equals:
            if not arguments or arguments[0].startswith("--"):
                raise UserError(f"{argument} needs a value: {argument}=VALUE")
            text = arguments.pop(0)
        result[key] = text
    return result


def _rename(config: dict, assignments: Mapping[str, Any]) -> None:
    """Drops the keywords of the functions for which `assignments` name another one."""
    for key, value in assignments.items():
        section, _, leaf = key.rpartition(".")
        if section in NAMED and leaf == "name" and isinstance(config.get(section), dict):
            if value != config[section].get("name"):
                kept = {"learning_rate"} & config[section].keys() if section == "optimizer" else ()
                config[section] = {k: config[section][k] for k in kept}
                config[section]["name"] = value


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields dotted keys and values. `dict(name=..., **kwargs)` of a function is one value."""
    for key, value in values.items():
        is_dict = isinstance(value, Mapping | ConfigDict)
        if is_dict and not (prefix + key in NAMED and "name" in value):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield prefix + key, value


def _section(config: dict, key: str) -> tuple[dict, str]:
    """Returns the section that holds the dotted `key`, made if it is missing, and the last part."""
    *parents, leaf = key.split(".")
    for depth, parent in enumerate(parents, 1):
        config = config.setdefault(parent, {})
        if not isinstance(config, dict):
            above = ".".join(parents[:depth])
            raise UserError(f"{above} has no keys of its own: set --config.{above}=VALUE")
    return config, leaf


def _parse(key: str, text: str, current: Any) -> Any:
    """Returns the value that `text` stands for, given the current value of the key."""
    if isinstance(current, str):
        return text
    try:
        value = _literal({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = text
    if isinstance(current, int | float) and isinstance(value, str):
        raise UserError(f"{key} must be {describe(type(current))}, got {text!r}")
    return plain(value)


def _literal(text: str) -> Any:
    """Returns the value of a Python literal, in which dicts may be written as `dict(key=value)`."""
    return ast.literal_eval(_DictCalls().visit(ast.parse(text.strip(), mode="eval")))


class _DictCalls(ast.NodeTransformer):
    """Replaces `dict(key=value)` by `{"key": value}`; nothing is called."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Name) or node.func.id != "dict" or node.args:
            return node
        # The keyword of `**more` is None, a key that literal_eval refuses.
        keys: list[ast.expr | None] = [
            ast.Constant(keyword.arg) if keyword.arg else None for keyword in node.keywords
        ]
        return ast.Dict(keys, [keyword.value for keyword in node.keywords])
