"""Weight averaging: exponential moving averages and lookahead."""

import dataclasses

import jax
import jax.numpy as jnp

Arrays = dict[str, jax.Array]


def update_ema(decay: float, step: jax.Array, ema: Arrays, params: Arrays) -> Arrays:
    """Returns the moving averages after update number `step`, from 0."""
    # Short at first, so that the average forgets the initial parameters.
    now = jnp.minimum(decay, (1 + step) / (10 + step))
    return {path: now * ema[path] + (1 - now) * params[path] for path in params}


@dataclasses.dataclass(frozen=True)
class Lookahead:
    """Slow weights to which the trained ones are reset every few steps (Zhang et al., 2019).

    Attributes:
      every: steps between two resets; 0 turns lookahead off.
      decay: share of themselves that the slow weights keep at the end of the run.
      power: the share grows with this power of the fraction of the run that is done.
    """

    every: int = 0
    decay: float = 0.0
    power: float = 0.0

    def __call__(
        self, step: jax.Array, total_steps: int, slow: Arrays, fast: Arrays
    ) -> tuple[Arrays, Arrays]:
        """Returns slow and fast weights after update number `step`, from 0."""
        due = (step + 1) % self.every == 0
        decay = self.decay * ((step + 1) / total_steps) ** self.power
        slow = {
            path: jnp.where(due, decay * slow[path] + (1 - decay) * fast[path], slow[path])
            for path in slow
        }
        return slow, {path: jnp.where(due, slow[path], fast[path]) for path in fast}
