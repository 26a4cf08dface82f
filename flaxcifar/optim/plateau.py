"""Reduce-on-plateau: lowers the learning rate when a validation metric stalls."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any

import optax

from flaxcifar.optim import SCHEDULES
from flaxcifar.optim.schedules import NotNegative, Share, Steps, constant
from flaxcifar.rules import above, at_least


@dataclasses.dataclass(frozen=True)
class Plateau:
    """Lowers the learning rate when the validation metric stalls: Keras' ReduceLROnPlateau.

    `scale` multiplies the schedule. After `patience` evaluations without an improvement by more
    than `min_delta`, it is multiplied by `factor`, but never falls below `min_scale`; the next
    `cooldown` evaluations then do not count as misses. All fields are plain numbers, so that
    `dataclasses.asdict` and `Plateau(**d)` carry it through JSON.
    """

    factor: float = 0.1
    patience: int = 10
    min_delta: float = 1e-4
    cooldown: int = 0
    min_scale: float = 0.0
    # State.
    scale: float = 1.0
    best: float | None = None
    wait: int = 0
    cooldown_left: int = 0

    def update(self, value: float, mode: str) -> "Plateau":
        """Returns the state after an evaluation with `value`; `mode` is "min" or "max".

        A value that is not finite counts as a miss.
        """
        state = self
        if self.cooldown_left:
            state = dataclasses.replace(state, cooldown_left=self.cooldown_left - 1)
        if state._improves(value, mode):
            return dataclasses.replace(state, best=float(value), wait=0)
        if state.cooldown_left:
            return state
        if state.wait + 1 < self.patience:
            return dataclasses.replace(state, wait=state.wait + 1)
        scale = max(state.scale * self.factor, self.min_scale)
        return dataclasses.replace(state, scale=scale, wait=0, cooldown_left=self.cooldown)

    def _improves(self, value: float, mode: str) -> bool:
        if not math.isfinite(value):
            return False
        if self.best is None:
            return True
        if mode == "max":
            return value > self.best + self.min_delta
        return value < self.best - self.min_delta


@SCHEDULES.register
def reduce_on_plateau(
    total_steps: int,
    *,
    factor: Annotated[float, above(0, 1)] = Plateau.factor,
    patience: Annotated[int, at_least(1)] = Plateau.patience,
    min_delta: NotNegative = Plateau.min_delta,
    cooldown: Annotated[int, at_least(0)] = Plateau.cooldown,
    min_scale: Share = Plateau.min_scale,
    warmup_steps: Steps = 0,
) -> optax.Schedule:
    """Always 1; `make_plateau` returns the state that acts after evaluations."""
    return constant(total_steps, warmup_steps=warmup_steps)


def make_plateau(spec: Mapping[str, Any]) -> Plateau | None:
    """Returns the state of a checked reduce_on_plateau schedule, None for any other schedule."""
    if spec["name"] != "reduce_on_plateau":
        return None
    own = SCHEDULES.keywords("reduce_on_plateau").keys() - {"warmup_steps"}
    return Plateau(**{key: value for key, value in spec.items() if key in own})
