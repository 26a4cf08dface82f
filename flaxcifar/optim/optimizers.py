"""Optimizers by name, and groups of parameters that train at their own rate or not at all."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jax.typing import ArrayLike

from flaxcifar.errors import UserError, suggestion
from flaxcifar.optim.muon import orthogonalizing
from flaxcifar.registry import Registry

OPTIMIZERS = Registry("optimizer")
# Keywords that are numbers wherever they are given; a momentum may also be None.
NUMBERS = frozenset(
    "learning_rate momentum decay weight_decay sgd_learning_rate sgd_momentum".split()
)
_TINY = 1e-30
FROZEN = "frozen"

# Given a base learning rate, returns its schedule.
Rate = Callable[[ArrayLike], optax.Schedule]

# They need more than gradients, take no schedule, or evaluate other parameters than they train.
_UNSUITED = frozenset(
    "cocob dadapt_adamw dog dowg dpsgd lbfgs momo momo_adam noisy_sgd optimistic_adam prodigy "
    "rprop schedule_free schedule_free_adamw schedule_free_sgd sm3 sophia".split()
)


@OPTIMIZERS.register
def sgd(
    rate: Rate,
    *,
    learning_rate: ArrayLike,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    decay: ArrayLike = 0.0,
) -> optax.GradientTransformation:
    """Gradient descent with PyTorch's momentum, decoupled from its weight decay.

    A step at the peak of the schedule takes the share `decay` from every parameter, whatever the
    learning rate: the gradient gets `decay / learning_rate` times the parameter.
    """
    shrink = optax.add_decayed_weights(decay / jnp.maximum(learning_rate, _TINY))
    return optax.chain(shrink, optax.sgd(rate(learning_rate), momentum, nesterov))


@OPTIMIZERS.register
def muon(
    rate: Rate,
    *,
    learning_rate: ArrayLike = 0.02,
    momentum: ArrayLike = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    ns_dtype: str = "bfloat16",
    normalize: bool = False,
    weight_decay: ArrayLike = 0.0,
    sgd_learning_rate: ArrayLike = 0.1,
    sgd_momentum: ArrayLike = 0.9,
) -> optax.GradientTransformation:
    """Muon (Jordan et al., 2024) for the kernels of convolutions, SGD for all other parameters.

    optax's own leaves kernels of four dimensions to Adam. For the keywords see
    `muon.orthogonalizing`; those of SGD begin with `sgd_`, and its momentum is Nesterov's.
    """

    def labels(params):
        return {
            path: "muon" if getattr(value, "ndim", 0) == 4 else "sgd"
            for path, value in params.items()
        }

    kernels = orthogonalizing(
        rate(learning_rate), momentum, nesterov, ns_steps, ns_dtype, normalize, weight_decay
    )
    others = optax.sgd(rate(sgd_learning_rate), sgd_momentum, nesterov=True)
    return optax.multi_transform({"muon": kernels, "sgd": others}, labels)


@dataclasses.dataclass(frozen=True)
class OwnOptimizer:
    """What a group of parameters has that trains by an optimizer and a schedule of its own.

    Attributes:
      number: of its entry in `param_groups`.
      spec: as `config.optimizer`.
      schedule: of its learning rate.
    """

    number: int
    spec: Mapping[str, Any]
    schedule: optax.Schedule

    def __str__(self) -> str:
        return f"group{self.number}"


# The scale of the learning rate, FROZEN, or an optimizer.
Group = float | str | OwnOptimizer


def _from_optax(name: str) -> Callable | None:
    for module in (optax, optax.contrib):
        function = vars(module).get(name)
        if inspect.isfunction(function) and not name.startswith(("_", "scale_by")):
            parameters = inspect.signature(function).parameters
            if "learning_rate" in parameters and name not in _UNSUITED:
                return function
    return None


def optimizer_names() -> list[str]:
    """Returns the names that `optimizer.name` may take."""
    public = (name for name in {*vars(optax), *vars(optax.contrib)} if _from_optax(name))
    return sorted({*public, *OPTIMIZERS.names()})


def make_optimizer(spec: Mapping[str, Any], rate: Rate) -> optax.GradientTransformation:
    """Returns the optimizer that `spec`, a dict(name=..., **kwargs), names.

    Weight decay applies to kernels alone, as the field does it, where optax offers a mask.
    Raises UserError for an unknown name or keyword, listing the valid ones.
    """
    name = spec.get("name")
    for key in NUMBERS & spec.keys():
        value = spec[key]
        number = isinstance(value, int | float | np.generic | jax.Array)
        absent = value is None and key.endswith("momentum")
        if isinstance(value, bool) or not (number or absent):
            raise UserError(f"optimizer {name!r}: {key} is {value!r}; it must be a number")
    if name in OPTIMIZERS:
        return OPTIMIZERS.call(spec, rate)
    function = _from_optax(name)
    if function is None:
        names = optimizer_names()
        raise UserError(
            f"unknown optimizer {name!r}{suggestion(str(name), names)} "
            f"(there are: {', '.join(names)})"
        )
    allowed = list(inspect.signature(function).parameters)
    kwargs = {key: value for key, value in spec.items() if key != "name"}
    for key in kwargs:
        if key not in allowed:
            raise UserError(
                f"optimizer {name!r} takes no {key!r}{suggestion(key, allowed)} "
                f"(it takes: {', '.join(allowed)})"
            )
    if "learning_rate" not in kwargs:
        raise UserError(f"optimizer {name!r} needs 'learning_rate'")
    if "mask" in allowed:
        kwargs["mask"] = lambda params: {path: path.endswith("kernel") for path in params}
    return function(**kwargs | {"learning_rate": rate(kwargs["learning_rate"])})


def assign_groups(paths: Iterable[str], groups: Sequence[tuple[str, Group]]) -> dict[str, Group]:
    """Returns for every parameter path its group: what stands beside the pattern that matches.

    A pattern is a regular expression that has to match a whole path or the whole path of a module
    above it, so `stage1` names everything under stage1. The first match wins; a path that none
    matches has scale 1. Raises UserError for a pattern that no path matches.
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
        path: next((scale for pattern, scale in groups if matches(pattern, path)), 1.0)
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
    """Returns the transformation of a flat dict of gradients, one entry a path of `groups`.

    Args:
      spec: dict(name=..., learning_rate=..., **kwargs) of the optimizer.
      schedule: multiplies the learning rate; a function of the training step (not the update).
      values: keywords of the optimizer that are arguments of a compiled step, in place of `spec`'s.
      groups: each path's learning-rate scale, "frozen", or its own optimizer and schedule.
      gradient_clip: largest global norm over all trained parameters, 0 for none.
      accumulation_steps: gradients that are averaged into one update.
    """

    def optimizer(group: float | OwnOptimizer) -> optax.GradientTransformation:
        own = isinstance(group, OwnOptimizer)
        scale, wave = (1.0, group.schedule) if own else (group, schedule)

        def rate(base: ArrayLike) -> optax.Schedule:
            return lambda count: base * scale * wave(count * accumulation_steps)

        return make_optimizer(group.spec if own else {**spec, **(values or {})}, rate)

    def labels(params: Mapping[str, Any]) -> dict[str, Any]:
        # The outer transform has put a MaskedNode, an empty tree, in place of what is frozen.
        return {
            path: value if isinstance(value, optax.MaskedNode) else str(groups[path])
            for path, value in params.items()
        }

    trained = {str(group): group for group in groups.values() if group != FROZEN}
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
    # Outermost, so that a frozen parameter has no state in any of the above.
    return optax.multi_transform(
        {"trained": tx, FROZEN: optax.set_to_zero()},
        {path: FROZEN if group == FROZEN else "trained" for path, group in groups.items()},
    )
