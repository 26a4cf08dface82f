"""Fits a saved training state to another freeze plan.

The optimizer keeps a state for each group of parameters, so another `param_groups` changes its
structure. The state of a parameter that trains under both plans is kept. That of a parameter that
no longer trains is dropped. A parameter that begins to train gets a fresh state.
"""

import re
from collections.abc import Mapping

# "inner_states.<group>.inner_state", as optax names it. A group, such as 0.1, may contain a dot.
_GROUP = re.compile(r"inner_states\.(.+?)\.inner_state(?=\.|$)")


def sources(saved: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """Returns {wanted path: saved path} of the arrays to keep.

    A parameter's moving average that was not saved starts from the parameter.

    Args:
      saved: {path: dtype and shape} in the checkpoint, with dots between the parts of a path.
      wanted: the same, in the new state.
    """
    by_place = {_place(path): path for path in saved}
    found = {}
    for path, description in wanted.items():
        source = path if path in saved else by_place.get(_place(path))
        if source is None and path.startswith("state.ema."):
            source = path.replace("state.ema.", "state.params.", 1)
        if source and saved.get(source) == description:
            found[path] = source
    return found


def summary(saved: Mapping[str, str], wanted: Mapping[str, str], found: Mapping[str, str]) -> str:
    """Returns a line that tells which optimizer states are kept, dropped and reset."""
    dropped = {_parameter(path) for path in saved.keys() - {*found.values()}}
    begun = {_parameter(path) for path in wanted.keys() - found.keys()}
    kept = {_parameter(path) for path in found if _GROUP.search(path) and "/" in path}
    return (
        f"the freeze plan has changed: the optimizer's state is kept for {len(kept)} parameters, "
        f"dropped for {_list(dropped)} and reset for {_list(begun)}"
    )


def _place(path: str) -> str:
    return _GROUP.sub("*", path)


def _parameter(path: str) -> str:
    return path.rpartition(".")[2]


def _list(names: set[str]) -> str:
    return f"{len(names)} ({', '.join(sorted(names))})" if names else "none"
