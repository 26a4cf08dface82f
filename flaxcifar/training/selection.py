"""Selects the training examples of a batch with the highest loss under a small proxy network.

Based on airbench96_faster (https://github.com/KellerJordan/cifar10-airbench), where the proxy
trains on every fourth batch and the main network on the harder half of each batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from flaxcifar.devices.parallel import AXIS
from flaxcifar.models.network import Network
from flaxcifar.training.metrics import cross_entropy

Arrays = dict[str, jax.Array]


class ProxyState(struct.PyTreeNode):
    """The state of the proxy network; parameters and statistics are flat dicts by path."""

    params: Arrays
    batch_stats: Arrays
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class Selection:
    """Selects the hardest examples of each batch.

    Attributes:
      network: the proxy network.
      make_tx: returns its optimizer, given `Hyperparams.optimizer`.
      frozen: paths of its parameters that do not train.
      kept: number of examples selected from a global batch.
      every: the proxy trains on every n-th batch. It selects from all of them.
    """

    network: Network
    make_tx: Callable[[Arrays], optax.GradientTransformation]
    frozen: frozenset[str]
    kept: int
    every: int

    def start(self, optimizer: Arrays, params: Arrays, batch_stats: Arrays) -> ProxyState:
        """Returns the state before the first step."""
        return ProxyState(params, batch_stats, self.make_tx(optimizer).init(params))

    def __call__(
        self,
        state: ProxyState,
        optimizer: Arrays,
        label_smoothing: jax.Array,
        step: jax.Array,
        batch: Arrays,
    ) -> tuple[ProxyState, Arrays]:
        """Returns the state after a step, and this device's share of the selected examples.

        Args:
          optimizer: `Hyperparams.optimizer`.
          batch: this device's share: image float32 [B, H, W, C], normalized, label int32 [B], seed
            uint32 [B].
        """

        def loss_fn(trained: Arrays) -> tuple[jax.Array, Any]:
            logits, batch_stats = self.network.apply(
                {**state.params, **trained},
                state.batch_stats,
                batch["image"],
                batch["seed"],
                train=True,
                frozen=self.frozen,
            )
            losses = cross_entropy(logits, batch["label"], label_smoothing)
            return jnp.mean(losses), (losses, batch_stats)

        def train(state: ProxyState) -> tuple[ProxyState, jax.Array]:
            grads, (losses, batch_stats) = jax.grad(loss_fn, has_aux=True)(self._trained(state))
            zeros = {path: jnp.zeros_like(state.params[path]) for path in self.frozen}
            grads = {**jax.lax.pmean(grads, AXIS), **zeros}
            updates, opt_state = self.make_tx(optimizer).update(
                grads, state.opt_state, state.params
            )
            params = optax.apply_updates(state.params, updates)
            return ProxyState(params, batch_stats, opt_state), losses

        def look(state: ProxyState) -> tuple[ProxyState, jax.Array]:
            _, (losses, batch_stats) = loss_fn(self._trained(state))
            return state.replace(batch_stats=batch_stats), losses

        state, losses = jax.lax.cond(step % self.every == 0, train, look, state)
        return state, self._hardest(batch, losses)

    def _trained(self, state: ProxyState) -> Arrays:
        return {path: x for path, x in state.params.items() if path not in self.frozen}

    def _hardest(self, batch: Arrays, losses: jax.Array) -> Arrays:
        """Returns this device's share of the hardest examples, in the order of the global batch.

        Every device sees all losses, so the selection does not depend on the number of devices.
        """
        losses = jax.lax.all_gather(losses, AXIS, tiled=True)
        batch = jax.lax.all_gather(batch, AXIS, tiled=True)
        chosen = jnp.sort(jax.lax.top_k(losses, self.kept)[1])
        share = self.kept // jax.lax.axis_size(AXIS)
        own = jax.lax.dynamic_slice_in_dim(chosen, jax.lax.axis_index(AXIS) * share, share)
        return {key: jnp.take(array, own, axis=0) for key, array in batch.items()}
