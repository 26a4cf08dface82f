"""Pytrees as flat dicts by path, and how two of them differ."""

from collections.abc import Mapping
from typing import Any

import jax

from flaxcifar.workdir.packing import Layout


def path_name(path: Any) -> str:
    """Returns a key path as text, with dots between its parts."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def by_path(tree: Any) -> dict[str, Any]:
    """Returns {path: leaf}."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def describe(tree: Any) -> dict[str, str]:
    """Returns {path: dtype and shape}, such as "float32[3, 3]"."""
    return {path: f"{x.dtype}{list(x.shape)}" for path, x in by_path(tree).items()}


def describe_layout(layout: Layout) -> dict[str, str]:
    """Returns {path: dtype and shape} of the arrays of a checkpoint."""
    return {path: f"{dtype}{shape}" for path, (dtype, shape, _) in layout.items()}


def describe_difference(saved: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Returns how two {path: description} differ, naming at most five paths; "" if equal."""
    lines = [
        f"{path} is {saved.get(path, 'missing')} there, {expected.get(path, 'missing')} here"
        for path in sorted({*saved, *expected})
        if saved.get(path) != expected.get(path)
    ]
    more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
    return "; ".join(lines[:5]) + more
