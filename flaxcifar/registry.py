"""Named parts that a config chooses as `dict(name=..., **kwargs)`."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from flaxcifar.errors import UserError, suggestion


class Registry:
    """Functions of one kind by name; a file in `package` that registers one needs no other edit."""

    def __init__(self, kind: str, package: str | None = None):
        self.kind = kind
        self._package = package
        self._functions: dict[str, Callable] = {}

    def register(self, function: Callable) -> Callable:
        """Decorator: adds `function` under its own name."""
        self._functions[function.__name__] = function
        return function

    def names(self) -> tuple[str, ...]:
        """Returns the registered names, sorted, after importing the modules that register them."""
        if self._package is not None:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
        return tuple(sorted(self._functions))

    def __contains__(self, name: str) -> bool:
        return name in self.names()

    def keywords(self, name: str) -> dict[str, inspect.Parameter]:
        """Returns the keyword-only parameters of `name`: those that a config may set."""
        parameters = inspect.signature(self.get(name)).parameters.values()
        return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}

    def get(self, name: str) -> Callable:
        """Returns the function called `name`; raises UserError listing the valid names."""
        if name not in self.names():
            raise UserError(
                f"unknown {self.kind} {name!r}{suggestion(name, self.names())} "
                f"(there are: {', '.join(self.names())})"
            )
        return self._functions[name]

    def call(self, spec: Mapping[str, Any], *args: Any) -> Any:
        """Calls the function that `spec` names: positional `args` are ours, keywords the config's.

        Raises UserError where `check` does.
        """
        function, kwargs = self.check(spec)
        return function(*args, **kwargs)

    def check(self, spec: Mapping[str, Any]) -> tuple[Callable, dict[str, Any]]:
        """Returns the function that `spec` names, and its keywords.

        Raises UserError for an unknown name, an unknown keyword or a missing one.
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
