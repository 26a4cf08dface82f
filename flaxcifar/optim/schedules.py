"""Learning-rate schedules: factors of the optimizer's learning rate, 1 at their peak.

A registered schedule takes the length of the run in steps and returns an optax schedule: step (a
Python or traced integer, 0 at the first update) -> float32 scalar. `warmup_steps` first raises the
factor linearly from 0 to 1. In a config, durations may also be given in epochs or as a percentage
of the run: `warmup_epochs=5`, `every_epochs=20`, `rise_percent=30`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from flaxcifar.config import resolve_durations
from flaxcifar.errors import UserError
from flaxcifar.optim import SCHEDULES
from flaxcifar.rules import MAX_STEPS, Share, above, at_least, between

Steps = Annotated[int, between(0, MAX_STEPS)]
Stride = Annotated[int, between(1, MAX_STEPS)]
NotNegative = Annotated[float, at_least(0)]


def make_schedule(
    spec: Mapping[str, Any], steps_per_epoch: int, total_steps: int
) -> optax.Schedule:
    """Returns the schedule of `dict(name=..., **kwargs)`; raises UserError if that is wrong."""
    schedule = SCHEDULES.call(resolve_durations(spec, steps_per_epoch, total_steps), total_steps)

    def rate(step: ArrayLike) -> jax.Array:
        with jax.numpy_dtype_promotion("standard"):  # schedules mix integers and floats
            value = jnp.asarray(schedule(step), jnp.float32)
        # Rounding may put the end of a linear schedule just below 0, which would train backwards.
        return jnp.maximum(value, 0.0)

    return rate


def _warmed(schedule: optax.Schedule, warmup_steps: int) -> optax.Schedule:
    """Multiplies `schedule`, whose steps count from the start of the run, by the warm-up."""
    if not warmup_steps:
        return schedule
    # Exactly 1 after the warm-up; a compiled optax.linear_schedule may miss it by rounding.
    return lambda step: jnp.where(step < warmup_steps, step / warmup_steps, 1.0) * schedule(step)


def _staircase(every_steps: int, factor: float) -> optax.Schedule:
    """factor ** (step // every_steps).

    Not optax.exponential_decay(staircase=True): its compiled float division may fall below a whole
    number and start a stair one step late (e.g. with 97 steps per stair).
    """
    return lambda step: jnp.power(factor, jnp.asarray(step // every_steps, jnp.float32))


def _require(good: bool, message: str) -> None:
    if not good:
        raise UserError(f"config.schedule: {message}")


@SCHEDULES.register
def constant(total_steps: int, *, warmup_steps: Steps = 0) -> optax.Schedule:
    """Always 1."""
    return _warmed(optax.constant_schedule(1.0), warmup_steps)


@SCHEDULES.register
def exponential(
    total_steps: int,
    *,
    decay_rate: Annotated[float, above(0)],
    transition_steps: Stride,
    staircase: bool = False,
    warmup_steps: Steps = 0,
) -> optax.Schedule:
    """decay_rate ** (step / transition_steps); a staircase rounds the exponent down."""
    if staircase:
        return _warmed(_staircase(transition_steps, decay_rate), warmup_steps)
    return _warmed(optax.exponential_decay(1.0, transition_steps, decay_rate), warmup_steps)


@SCHEDULES.register
def inverse_time(
    total_steps: int, *, decay: NotNegative, warmup_steps: Steps = 0
) -> optax.Schedule:
    """1 / (1 + decay * step): the `decay` argument of Keras 2's optimizers.

    `step` counts the previous updates, as Keras' `iterations` does.
    """
    return _warmed(lambda step: 1.0 / (1.0 + decay * step), warmup_steps)


@SCHEDULES.register
def step_halving(
    total_steps: int,
    *,
    every_steps: Stride,
    factor: Annotated[float, above(0)] = 0.5,
    decay: NotNegative = 0.0,
    warmup_steps: Steps = 0,
) -> optax.Schedule:
    """factor ** (step // every_steps) / (1 + decay * step).

    `every_epochs=20, decay=1e-6` is the schedule of cifar-vgg: its callback sets Keras' learning
    rate to 0.1 * 0.5 ** (epoch // 20), which Keras' SGD divides by 1 + decay * iterations.
    """
    stairs, fade = _staircase(every_steps, factor), inverse_time(total_steps, decay=decay)
    return _warmed(lambda step: stairs(step) * fade(step), warmup_steps)


@SCHEDULES.register
def piecewise(
    total_steps: int,
    *,
    boundaries_steps: tuple[Steps, ...],
    factor: NotNegative | tuple[NotNegative, ...] = 0.1,
    warmup_steps: Steps = 0,
) -> optax.Schedule:
    """Multiplies by `factor` at every boundary; a tuple has one factor per boundary.

    The update with step == boundary is the first with the new rate.
    """
    _require(
        list(boundaries_steps) == sorted(set(boundaries_steps)),
        f"the boundaries must be an increasing tuple, got {boundaries_steps} (in steps)",
    )
    factors = factor if isinstance(factor, tuple) else (factor,) * len(boundaries_steps)
    _require(
        len(factors) == len(boundaries_steps),
        f"{len(boundaries_steps)} boundaries need as many factors, got {len(factors)}",
    )
    steps = dict(zip(boundaries_steps, factors, strict=True))
    return _warmed(optax.piecewise_constant_schedule(1.0, steps), warmup_steps)


@SCHEDULES.register
def cosine(total_steps: int, *, end_scale: Share = 0.0, warmup_steps: Steps = 0) -> optax.Schedule:
    """Half a cosine from 1 at the end of the warm-up to `end_scale` at the end of the run.

    SGDR (https://arxiv.org/abs/1608.03983) without restarts.
    """
    _require_rest(total_steps, warmup_steps)
    down = optax.cosine_decay_schedule(1.0, total_steps - warmup_steps, end_scale)
    return _warmed(lambda step: down(jnp.maximum(step - warmup_steps, 0)), warmup_steps)


@SCHEDULES.register
def linear(
    total_steps: int,
    *,
    end_scale: Share = 0.0,
    warmup_steps: Steps = 0,
    over_steps: Steps | None = None,
) -> optax.Schedule:
    """Linear from 1 at the end of the warm-up to `end_scale` at step `over_steps`, then constant.

    `over_steps` defaults to the end of the run.
    """
    over_steps = total_steps if over_steps is None else over_steps
    _require_rest(over_steps, warmup_steps)
    down = optax.linear_schedule(1.0, end_scale, over_steps - warmup_steps, warmup_steps)
    return _warmed(down, warmup_steps)


def _require_rest(total_steps: int, warmup_steps: int) -> None:
    _require(
        warmup_steps < total_steps,
        f"a warm-up of {warmup_steps} steps does not fit into {total_steps} steps",
    )


@SCHEDULES.register
def one_cycle(
    total_steps: int,
    *,
    rise_steps: Steps | None = None,
    start_scale: Annotated[float, above(0, 1)] = 1 / 25,
    end_scale: Share = 1 / 250_000,
    anneal: Literal["cosine", "linear"] = "cosine",
) -> optax.Schedule:
    """From `start_scale` up to 1 over `rise_steps` (30 % of the run), then down to `end_scale`.

    `anneal` is the shape of both parts, "cosine" or "linear". The one-cycle policy
    (https://arxiv.org/abs/1708.07120), with the defaults of PyTorch's OneCycleLR.
    """
    rise_steps = round(0.3 * total_steps) if rise_steps is None else rise_steps
    _require(
        0 < rise_steps < total_steps,
        f"rise_steps must be above 0 and below {total_steps}, the run's length, got {rise_steps}",
    )
    turns = {rise_steps: 1 / start_scale, total_steps: end_scale}
    return optax.schedules.piecewise_interpolate_schedule(anneal, start_scale, turns)
