"""Registries of functions that a config names as `dict(name=..., **kwargs)`."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from flaxcifar.errors import UserError, suggestion


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

    def register(self, function: Callable) -> Callable:
        """Registers `function` under its own name; a decorator."""
        self._functions[function.__name__] = function
        return function

    def names(self) -> tuple[str, ...]:
        """Returns the registered names, sorted."""
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
        parameters = inspect.signature(self.get(name)).parameters.values()
        return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}

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
          UserError: the name is missing or unknown, or a keyword is.
        """
        kwargs = dict(spec)
        name = kwargs.pop("name", None)
        if name is None:
            raise UserError(f"a {self.kind} needs a name (there are: {', '.join(self.names())})")
        function, allowed = self.get(name), self.keywords(name)
        for key in kwargs:
            if key not in allowed:
                raise UserError(
                    f"{self.kind} {name!r} takes no {key!r}{suggestion(key, allowed)} "
                    f"(it takes: {', '.join(allowed) or 'nothing'})"
                )
        for key, parameter in allowed.items():
            if parameter.default is parameter.empty and key not in kwargs:
                raise UserError(f"{self.kind} {name!r} needs {key!r}")
        return function, kwargs
