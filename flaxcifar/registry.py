"""Registries of functions that a config names as `dict(name=..., **kwargs)`.

Keywords are checked against the annotations of a function, which may contain rules:
`depth: Annotated[int, at_least(1)] = 2`.
"""

import functools
import importlib
import inspect
import pkgutil
import sys
import typing
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, TypeVar

from flaxcifar.errors import UserError, suggestion
from flaxcifar.rules import describe, fits

# Installed packages name their modules that register functions under this entry point.
ENTRY_POINT = "flaxcifar"

F = TypeVar("F", bound=Callable)

# All that have been created.
REGISTRIES: list["Registry"] = []


class Registry:
    """Functions of one kind, by name.

    The positional parameters of a function are set by the package, its keyword-only parameters by
    the config.

    Example:
      MODELS = Registry("model", package="flaxcifar.models")

      @MODELS.register
      def resnet(classes, *, depth=18): ...

      MODELS.call({"name": "resnet", "depth": 34}, 10)
    """

    def __init__(self, kind: str, package: str | None = None):
        """Creates an empty registry.

        Args:
          kind: what the functions make, for messages.
          package: the package whose modules register functions. They are imported before names are
            looked up, so a new file there needs no other edit.
        """
        self.kind = kind
        self._package = package
        self._functions: dict[str, Callable] = {}
        REGISTRIES.append(self)

    def register(self, function: F) -> F:
        """Registers `function` under its own name; a decorator.

        A function of the same name is replaced, as when a notebook's cell runs again.

        Raises:
          UserError: the package has a function of this name.
        """
        name = function.__name__
        if is_own(function) != is_own(self._functions.get(name, function)):
            raise UserError(f"flaxcifar has {self.article} {name!r} already: choose another name")
        self._functions[name] = function
        return function

    @property
    def article(self) -> str:
        """The kind with its article, for messages."""
        return f"{'an' if self.kind[0] in 'aeiou' else 'a'} {self.kind}"

    def added(self) -> dict[str, Callable]:
        """Returns the functions by name that are not the package's own."""
        return {name: f for name, f in self._functions.items() if not is_own(f)}

    def names(self) -> tuple[str, ...]:
        """Returns the registered names, sorted."""
        _import_plugins()
        if self._package is not None:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
        return tuple(sorted(self._functions))

    def __contains__(self, name: str) -> bool:
        return name in self.names()

    def keywords(self, name: str) -> dict[str, inspect.Parameter]:
        """Returns the keyword-only parameters of a function, which a config may set.

        Raises:
          UserError: the name is unknown.
        """
        found = parameters(self.get(name))
        return {key: p for key, p in found.items() if p.kind is p.KEYWORD_ONLY}

    def get(self, name: str) -> Callable:
        """Returns a function by its name.

        Raises:
          UserError: the name is unknown; the message lists the valid names.
        """
        if name not in self.names():
            raise UserError(
                f"unknown {self.kind} {name!r}{suggestion(name, self.names())} "
                f"(there are: {', '.join(self.names())})"
            )
        return self._functions[name]

    def call(self, spec: Mapping[str, Any], *args: Any) -> Any:
        """Calls the function that `spec` names with positional `args` and the keywords of `spec`.

        Raises:
          UserError: as for `check`.
        """
        function, kwargs = self.check(spec)
        return function(*args, **kwargs)

    def check(self, spec: Mapping[str, Any]) -> tuple[Callable, dict[str, Any]]:
        """Returns the function that `spec` names, and its keywords.

        Raises:
          UserError: the name is missing or unknown, a keyword is, or its value is not valid.
        """
        kwargs = dict(spec)
        name = kwargs.pop("name", None)
        if name is None:
            raise UserError(f"{self.article} needs a name (there are: {', '.join(self.names())})")
        function = self.get(name)
        check_keywords(f"{self.kind} {name!r}", self.keywords(name), kwargs)
        return function, kwargs


def is_own(function: Callable) -> bool:
    """Returns whether a function belongs to this package."""
    return function.__module__.partition(".")[0] == "flaxcifar"


@functools.cache
def _import_plugins() -> None:
    """Imports the modules that installed packages offer; reports those that fail."""
    for entry in metadata.entry_points(group=ENTRY_POINT):
        try:
            entry.load()
        except Exception as error:  # of code that is not ours
            where = f"{entry.name} ({entry.value})"
            print(f"flaxcifar: cannot import the plugin {where}: {error}", file=sys.stderr)


def parameters(function: Callable) -> dict[str, inspect.Parameter]:
    """Returns the parameters of a function by name, with evaluated annotations."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError:  # of a name that is imported for type checkers only
        hints = {}
    found = inspect.signature(function).parameters
    return {key: p.replace(annotation=hints.get(key, Any)) for key, p in found.items()}


def check_keywords(
    owner: str, allowed: Mapping[str, inspect.Parameter], kwargs: Mapping[str, Any]
) -> None:
    """Checks the keywords of a function; `owner` names it in messages.

    Raises:
      UserError: a keyword is unknown or missing, or its value does not fit its annotation.
    """
    for key, value in kwargs.items():
        if key not in allowed:
            raise UserError(
                f"{owner} takes no {key!r}{suggestion(key, allowed)} "
                f"(it takes: {', '.join(allowed) or 'nothing'})"
            )
        hint = allowed[key].annotation
        if not fits(value, hint) and value is not allowed[key].default:
            raise UserError(f"{owner}: {key} must be {describe(hint)}, got {value!r}")
    for key, parameter in allowed.items():
        if parameter.default is parameter.empty and key not in kwargs:
            raise UserError(f"{owner} needs {key!r}")
