"""Components of the user's own: where they were registered, and how to find them again.

A checkpoint names the file of every registered function that its config uses and that does not
belong to the package. Code is never loaded from a workdir, and only from files that are unchanged.
"""

import contextlib
import contextvars
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from flaxcifar.errors import UserError
from flaxcifar.registry import REGISTRIES

# Whether a file is being run for the components that it registers.
_importing: contextvars.ContextVar[str] = contextvars.ContextVar("importing", default="")


class Origin(TypedDict):
    """Where a component was registered. `file` and `sha256` are empty for code without a file."""

    kind: str
    name: str
    module: str
    file: str
    sha256: str


def origins(config: Mapping[str, Any]) -> list[Origin]:
    """Returns the origins of the components of the user's own that a plain config names."""
    names = set(_names(config))
    return [
        _origin(registry.kind, function)
        for registry in REGISTRIES
        for name, function in registry.added().items()
        if name in names
    ]


def restore(found: Iterable[Origin], workdir: Path) -> None:
    """Imports what a run in `workdir` needs, unless it is registered already.

    Raises:
      UserError: a file is missing or has changed. The message says what to import.
    """
    registries = {registry.kind: registry for registry in REGISTRIES}
    for origin in found:
        if origin["name"] in registries[origin["kind"]]:
            continue
        path = _unchanged(origin, workdir)
        if path is None:
            name, place = f"{origin['kind']} {origin['name']!r}", origin["file"] or "a notebook"
            raise UserError(
                f"{workdir} uses the {name}, registered in {place}, which is missing or has "
                "changed: import the module that registers it first (--import FILE_OR_MODULE)"
            )
        import_components(str(path))


def import_components(name: str) -> None:
    """Imports a module, or runs a Python file, for the components that it registers.

    Raises:
      UserError: it does not exist, or fails.
    """
    token = _importing.set(name)
    try:
        if not name.endswith(".py"):
            importlib.import_module(name)
            return
        path = Path(name).resolve()
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        with _folder_importable(path.parent):
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except UserError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())
        raise UserError(f"cannot import {name} ({type(error).__name__}: {words})") from error
    finally:
        _importing.reset(token)


def check_not_importing() -> None:
    """Raises UserError if a file that is run for its components begins to train."""
    if name := _importing.get():
        raise UserError(
            f"{name} was imported for its components and began to train: put its calls under "
            "if __name__ == '__main__'"
        )


@contextlib.contextmanager
def _folder_importable(folder: Path) -> Iterator[None]:
    """Context manager: modules of a folder can be imported, as from a script in it."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _names(value: Any) -> Iterator[str]:
    """Yields everything that a config calls `name`, at any depth."""
    if isinstance(value, Mapping):
        if isinstance(name := value.get("name"), str):
            yield name
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _names(item)


def _origin(kind: str, function: Callable) -> Origin:
    code = getattr(inspect.unwrap(function), "__code__", None)
    file = Path(code.co_filename).absolute() if code else Path()
    known = file.is_file()
    return {
        "kind": kind,
        "name": function.__name__,
        "module": function.__module__,
        "file": str(file) if known else "",
        "sha256": _hash(file) if known else "",
    }


def _unchanged(origin: Origin, workdir: Path) -> Path | None:
    """Returns the file that registers a component if it is the one that the run used."""
    paths = [Path(origin["file"])]
    with contextlib.suppress(ValueError):  # __main__ may have no spec
        # Looking for a submodule would run its package.
        if "." not in origin["module"] and (spec := importlib.util.find_spec(origin["module"])):
            paths.insert(0, Path(spec.origin or ""))
    for path in paths:
        inside = path.resolve().is_relative_to(workdir.resolve())
        if path.is_file() and not inside and _hash(path) == origin["sha256"]:
            return path
    return None


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
