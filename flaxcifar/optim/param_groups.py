"""Parameter groups: a learning-rate scale, an own optimizer, or frozen."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import optax
from jax.typing import ArrayLike

from flaxcifar.errors import UserError
from flaxcifar.optim.optimizers import check_optimizer, make_optimizer

FROZEN = "frozen"


@dataclasses.dataclass(frozen=True)
class OwnOptimizer:
    """The optimizer and schedule of one parameter group.

    Attributes:
      number: of its entry in `param_groups`.
      spec: dict(name=..., learning_rate=..., **kwargs).
      schedule: factor of its learning rate by step.
    """

    number: int
    spec: Mapping[str, Any]
    schedule: optax.Schedule

    def __str__(self) -> str:
        return f"group{self.number}"


# A scale of the learning rate, FROZEN, or an optimizer.
Group = float | str | OwnOptimizer


def make_groups(
    params: Iterable[str],
    entries: Sequence[tuple[str, Any]],
    schedule_spec: Mapping[str, Any],
    make_schedule: Callable[[Mapping[str, Any]], optax.Schedule],
) -> dict[str, Group]:
    """Returns the group of every parameter path.

    Args:
      params: the paths.
      entries: `config.param_groups`, pairs of a pattern and a group.
      schedule_spec: the schedule of an optimizer that names none.
      make_schedule: builds a schedule from dict(name=..., **kwargs).
    """
    groups = []
    for number, (pattern, group) in enumerate(entries):
        if isinstance(group, Mapping):
            spec = {"schedule": schedule_spec, **group}
            group = OwnOptimizer(number, spec, make_schedule(spec.pop("schedule")))
        groups.append((pattern, group))
    return assign_groups(params, groups)


def own_optimizers(entries: Sequence[tuple[str, Any]]) -> list[dict[str, Any]]:
    """Returns the optimizers that `config.param_groups` names, without their schedules."""
    specs = (group for _, group in entries if isinstance(group, Mapping))
    return [{key: value for key, value in spec.items() if key != "schedule"} for spec in specs]


def assign_groups(paths: Iterable[str], groups: Sequence[tuple[str, Group]]) -> dict[str, Group]:
    """Returns the group of every parameter path: that of the first pattern that matches it.

    A pattern is a regular expression that must match the whole path of a parameter or of a module
    that contains it: `stage1` names everything under stage1. A path without a match gets scale 1.
    Raises UserError for a pattern that matches no path.
    """
    paths = list(paths)

    def matches(pattern: str, path: str) -> bool:
        parts = path.split("/")
        return any(re.fullmatch(pattern, "/".join(parts[:n])) for n in range(1, len(parts) + 1))

    for pattern, _ in groups:
        if not any(matches(pattern, path) for path in paths):
            raise UserError(
                f"param_groups: no parameter matches {pattern!r} (there are: {', '.join(paths)})"
            )
    return {
        path: next((group for pattern, group in groups if matches(pattern, path)), 1.0)
        for path in paths
    }


def make_tx(
    spec: Mapping[str, Any],
    schedule: optax.Schedule,
    groups: Mapping[str, Group],
    values: Mapping[str, ArrayLike] | None = None,
    *,
    gradient_clip: float = 0.0,
    accumulation_steps: int = 1,
) -> optax.GradientTransformation:
    """Returns the transformation of a flat dict of gradients, one entry per path of `groups`.

    Args:
      spec: dict(name=..., learning_rate=..., **kwargs) of the optimizer.
      schedule: factor of the learning rate by training step (not by update).
      groups: the group of each path.
      values: keywords of the optimizer that are arguments of a compiled step; they override `spec`.
      gradient_clip: maximum global norm over all trained parameters, 0 for no clipping.
      accumulation_steps: number of gradients averaged into one update.

    Raises:
      UserError: a wrong optimizer, or every parameter is frozen.
    """

    def optimizer(group: float | OwnOptimizer) -> optax.GradientTransformation:
        chosen: Mapping[str, Any]
        if isinstance(group, OwnOptimizer):
            chosen, scale, factor = group.spec, 1.0, group.schedule
        else:
            chosen, scale, factor = {**spec, **(values or {})}, group, schedule

        def rate(base: ArrayLike) -> optax.Schedule:
            return lambda count: base * scale * factor(count * accumulation_steps)

        check_optimizer(chosen)
        return make_optimizer(chosen, rate)

    def labels(params: Mapping[str, Any]) -> dict[str, Any]:
        # The outer transform replaces frozen parameters by a MaskedNode, an empty tree.
        return {
            path: value if isinstance(value, optax.MaskedNode) else str(groups[path])
            for path, value in params.items()
        }

    trained = {str(group): group for group in groups.values() if not isinstance(group, str)}
    if not trained:
        raise UserError("param_groups: every parameter is frozen, nothing is left to train")
    tx = optax.multi_transform(
        {label: optimizer(trained[label]) for label in sorted(trained)}, labels
    )
    # Over all groups at once: clipping inside each would not bound the global norm.
    if gradient_clip:
        tx = optax.chain(optax.clip_by_global_norm(gradient_clip), tx)
    if accumulation_steps > 1:
        tx = optax.MultiSteps(tx, accumulation_steps).gradient_transformation()
    # Outermost, so that frozen parameters have no state in any of the above.
    tx = optax.multi_transform(
        {"trained": tx, FROZEN: optax.set_to_zero()},
        {path: FROZEN if group == FROZEN else "trained" for path, group in groups.items()},
    )
    # optax mixes integers and floats, which a strict dtype promotion would refuse.
    promote = jax.numpy_dtype_promotion("standard")
    return optax.GradientTransformation(promote(tx.init), promote(tx.update))


def group_words(groups: Mapping[str, Group]) -> dict[str, str]:
    """Returns {path: words} of the parameters whose group has a rate or optimizer of its own."""
    words = {}
    for path, group in groups.items():
        if isinstance(group, OwnOptimizer):
            words[path] = f"by {group.spec['name']}"
        elif group not in (1.0, FROZEN):
            words[path] = f"at {group:g} x the rate"
    return words


def frozen_paths(groups: Mapping[str, Group]) -> frozenset[str]:
    """Returns the paths of the parameters that do not train."""
    return frozenset(path for path, group in groups.items() if group == FROZEN)
