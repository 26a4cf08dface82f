"""A saved training state in the structure of another freeze plan.

The optimizer keeps a state for each group of parameters, so that another `param_groups` gives it
another structure. What belongs to a parameter that trains in both goes over; what belongs to one
that trains no more is dropped; one that begins to train begins with a fresh state.
"""

import re
from collections.abc import Mapping

# "inner_states.<group>.inner_state", as optax names it; the group may have a dot, as 0.1 has.
_GROUP = re.compile(r"inner_states\.(.+?)\.inner_state(?=\.|$)")


def sources(saved: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """Returns {wanted path: saved path} for what can be taken over.

    Both are {path: description of the array}, with dots between the parts of a path. An average of
    a parameter that had none begins with the parameter.
    """
    by_place = {_place(path): path for path in saved}
    found = {}
    for path, description in wanted.items():
        source = path if path in saved else by_place.get(_place(path))
        if source is None and path.startswith("state.ema."):
            source = path.replace("state.ema.", "state.params.", 1)
        if source in saved and saved[source] == description:
            found[path] = source
    return found


def summary(saved: Mapping[str, str], wanted: Mapping[str, str], found: Mapping[str, str]) -> str:
    """Returns a line on what is kept, dropped and begun anew."""
    dropped = {_parameter(path) for path in saved.keys() - {*found.values()}}
    begun = {_parameter(path) for path in wanted.keys() - found.keys()}
    kept = {_parameter(path) for path in found if _GROUP.search(path) and "/" in path}
    return (
        f"the freeze plan has changed: the optimizer's state is kept for {len(kept)} parameters, "
        f"dropped for {_list(dropped)} and begun anew for {_list(begun)}"
    )


def _place(path: str) -> str:
    return _GROUP.sub("*", path)


def _parameter(path: str) -> str:
    return path.rpartition(".")[2]


def _list(names: set[str]) -> str:
    return f"{len(names)} ({', '.join(sorted(names))})" if names else "none"
