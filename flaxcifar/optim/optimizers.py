"""Optimizers by name: optax's, and a few of our own.

A registered optimizer takes a function from a base learning rate to its schedule, then the config's
keywords.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.typing import ArrayLike

from flaxcifar.errors import UserError, suggestion
from flaxcifar.optim import OPTIMIZERS
from flaxcifar.optim.muon import orthogonalize_updates
from flaxcifar.registry import check_keywords, parameters
from flaxcifar.rules import FRACTION, at_least, between

# Keywords whose numbers are arguments of the compiled step, so that runs with different values
# share one program.
_TRACED = frozenset(("learning_rate", "momentum", "decay", "weight_decay"))
_TINY = 1e-30

# Numbers, or tracers of them.
NotNegative = Annotated[float, at_least(0)] | jax.Array
Fraction = Annotated[float, FRACTION] | jax.Array

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
    learning_rate: NotNegative,
    momentum: Fraction | None = None,
    nesterov: bool = False,
    decay: Fraction = 0.0,
) -> optax.GradientTransformation:
    """Stochastic gradient descent with PyTorch's momentum and decoupled weight decay.

    At the peak of the schedule, each step shrinks every parameter by the fraction `decay`,
    whatever the learning rate: `decay / learning_rate` times the parameter is added to the
    gradient.
    """
    shrink = optax.add_decayed_weights(decay / jnp.maximum(learning_rate, _TINY))
    return optax.chain(shrink, optax.sgd(rate(learning_rate), momentum, nesterov))


@OPTIMIZERS.register
def muon(
    rate: Rate,
    *,
    learning_rate: NotNegative = 0.02,
    momentum: Fraction = 0.95,
    nesterov: bool = True,
    ns_steps: Annotated[int, between(1, 100)] = 5,
    ns_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
    normalize: bool = False,
    weight_decay: NotNegative = 0.0,
    sgd_learning_rate: NotNegative = 0.1,
    sgd_momentum: Fraction = 0.9,
) -> optax.GradientTransformation:
    """Muon (Jordan et al., 2024) for convolution kernels, SGD for all other parameters.

    Unlike `optax.contrib.muon`, which leaves four-dimensional kernels to Adam. See
    `muon.orthogonalize_updates` for the keywords; those of SGD, with Nesterov momentum, begin with
    `sgd_`.
    """

    def labels(params):
        return {
            path: "muon" if getattr(value, "ndim", 0) == 4 else "sgd"
            for path, value in params.items()
        }

    kernels = orthogonalize_updates(
        rate(learning_rate), momentum, nesterov, ns_steps, ns_dtype, normalize, weight_decay
    )
    others = optax.sgd(rate(sgd_learning_rate), sgd_momentum, nesterov=True)
    return optax.multi_transform({"muon": kernels, "sgd": others}, labels)


def is_traced(key: str, value: Any) -> bool:
    """Tells whether an optimizer's keyword is an argument of the compiled step."""
    return key in _TRACED and isinstance(value, int | float)


def optimizer_names() -> list[str]:
    """Returns the valid values of `optimizer.name`."""
    public = (name for name in {*vars(optax), *vars(optax.contrib)} if _from_optax(name))
    return sorted({*public, *OPTIMIZERS.names()})


def check_optimizer(spec: Mapping[str, Any]) -> None:
    """Raises UserError for a wrong name or keyword of dict(name=..., **kwargs)."""
    kwargs = dict(spec)
    name = kwargs.pop("name", None)
    if name in OPTIMIZERS:
        OPTIMIZERS.check(spec)
        if "learning_rate" not in kwargs:  # the loop logs it, so a default is not enough
            raise UserError(f"optimizer {name!r} needs 'learning_rate'")
        return
    function = _from_optax(name)
    if function is None:
        names = optimizer_names()
        raise UserError(
            f"unknown optimizer {name!r}{suggestion(str(name), names)} "
            f"(there are: {', '.join(names)})"
        )
    allowed = parameters(function)
    # A number in a config, where optax takes a schedule.
    allowed["learning_rate"] = allowed["learning_rate"].replace(
        default=inspect.Parameter.empty, annotation=NotNegative
    )
    check_keywords(f"optimizer {name!r}", allowed, kwargs)


def make_optimizer(spec: Mapping[str, Any], rate: Rate) -> optax.GradientTransformation:
    """Returns the optimizer of dict(name=..., **kwargs), which `check_optimizer` has accepted.

    Weight decay applies to kernels only, the field's convention, where optax offers a mask.
    """
    name = spec["name"]
    if name in OPTIMIZERS:
        return OPTIMIZERS.call(spec, rate)
    function = _from_optax(name)
    assert function is not None  # `check_optimizer` has found it
    kwargs = {key: value for key, value in spec.items() if key != "name"}
    kwargs["learning_rate"] = rate(kwargs["learning_rate"])
    if "mask" in inspect.signature(function).parameters:
        kwargs["mask"] = lambda params: {path: path.endswith("kernel") for path in params}
    try:
        return function(**kwargs)
    except (TypeError, ValueError) as error:  # of a keyword without a useful annotation
        raise UserError(f"optimizer {name!r}: {' '.join(str(error).split())}") from error


def _from_optax(name: str) -> Callable | None:
    for module in (optax, optax.contrib):
        function = vars(module).get(name)
        if inspect.isfunction(function) and not name.startswith(("_", "scale_by")):
            parameters = inspect.signature(function).parameters
            if "learning_rate" in parameters and name not in _UNSUITED:
                return function
    return None
