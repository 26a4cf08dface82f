"""The training and evaluation steps: pure functions of one device's share of a batch."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from flaxcifar import hashing
from flaxcifar.augment import Augment
from flaxcifar.data.normalization import Normalization
from flaxcifar.data.resident import gather
from flaxcifar.metrics import Metrics, cross_entropy, measure
from flaxcifar.models.network import Network
from flaxcifar.parallel import AXIS

Arrays = dict[str, jax.Array]


class TrainState(struct.PyTreeNode):
    """All that training changes; parameters and statistics are flat dicts by path.

    Attributes:
      step: int32, batches seen.
      params, batch_stats: float32 arrays.
      opt_state: of optax.
      ema: moving averages of the trained parameters, empty where none are kept.
      learning_rate_scale: float32, what reduce-on-plateau has left of the learning rate.
      bad_step: int32, the first step whose loss was not finite, -1 before that.
    """

    step: jax.Array
    params: Arrays
    batch_stats: Arrays
    opt_state: Any
    ema: Arrays
    learning_rate_scale: jax.Array
    bad_step: jax.Array

    @property
    def eval_params(self) -> Arrays:
        """The parameters to evaluate: averaged where averages are kept."""
        return {**self.params, **self.ema}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What the steps know beyond their arguments; fixed for a whole run.

    Attributes:
      network: the model as pure functions.
      tx: takes gradients of all paths; those of `frozen` are zero.
      frozen: paths of parameters that receive no gradient.
      l2_paths: trained parameters whose squares, times `l2`, are added to the loss.
      superclass_of: int32 [classes] or None.
      steps_per_epoch: tells the augmentation which epoch it is.
    """

    network: Network
    tx: optax.GradientTransformation
    augment: Augment
    normalization: Normalization
    seed: int
    steps_per_epoch: int
    frozen: frozenset[str] = frozenset()
    l2: float = 0.0
    l2_paths: tuple[str, ...] = ()
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    superclass_of: np.ndarray | None = None


def create_state(recipe: Recipe, params: Arrays, batch_stats: Arrays) -> TrainState:
    """Returns the state before the first step."""
    trained = {path: value for path, value in params.items() if path not in recipe.frozen}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=recipe.tx.init(params),
        ema=trained if recipe.ema_decay else {},
        learning_rate_scale=jnp.ones((), jnp.float32),
        bad_step=jnp.full((), -1, jnp.int32),
    )


def train_step(
    recipe: Recipe, state: TrainState, metrics: Metrics, batch: Arrays
) -> tuple[TrainState, Metrics]:
    """Returns the state after one update, and the metrics with this batch added.

    Gradients and metrics are reduced over the devices of `AXIS`, and so are the statistics of
    BatchNorm, inside the model: every device returns the same values.

    Args:
      batch: this device's share: uint8 image [B, H, W, C], int32 label [B], int32 index [B] of the
        examples in the training split.
    """
    epoch = state.step // recipe.steps_per_epoch
    images = recipe.augment(batch["image"], batch["index"], recipe.seed, epoch)
    images = recipe.normalization(images)
    dropout_seeds = hashing.combine(recipe.seed, state.step, batch["index"])
    trained = {path: x for path, x in state.params.items() if path not in recipe.frozen}

    def loss_fn(trained: Arrays):
        logits, batch_stats = recipe.network.apply(
            {**state.params, **trained},
            state.batch_stats,
            images,
            dropout_seeds,
            train=True,
            frozen=recipe.frozen,
        )
        losses = cross_entropy(logits, batch["label"], recipe.label_smoothing)
        penalty = recipe.l2 * sum(jnp.sum(jnp.square(trained[path])) for path in recipe.l2_paths)
        return jnp.mean(losses) + penalty, (logits, losses, penalty, batch_stats)

    grads, (logits, losses, penalty, batch_stats) = jax.grad(loss_fn, has_aux=True)(trained)
    grads = jax.lax.pmean(grads, AXIS)
    # The zeros are never computed: a frozen path's update is zero whatever its gradient.
    zeros = {path: jnp.zeros_like(state.params[path]) for path in recipe.frozen}
    updates, opt_state = recipe.tx.update({**grads, **zeros}, state.opt_state, state.params)
    trained = {
        path: value + updates[path] * state.learning_rate_scale for path, value in trained.items()
    }
    ema = state.ema
    if recipe.ema_decay:
        # Short at first, so that the average forgets the initial parameters.
        decay = jnp.minimum(recipe.ema_decay, (1 + state.step) / (10 + state.step))
        ema = {path: decay * ema[path] + (1 - decay) * trained[path] for path in trained}
    superclass_of = recipe.superclass_of
    seen = measure(logits, batch["label"], 1.0, losses, superclass_of, penalty)
    seen = jax.lax.psum(seen, AXIS)
    bad = (state.bad_step < 0) & ~jnp.isfinite(seen.loss + seen.penalty)
    state = state.replace(
        step=state.step + 1,
        params={**state.params, **trained},
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema=ema,
        bad_step=jnp.where(bad, state.step, state.bad_step),
    )
    return state, metrics + seen


def train_steps(
    recipe: Recipe, state: TrainState, metrics: Metrics, resident: Arrays, batches: Arrays
) -> tuple[TrainState, Metrics]:
    """Runs one step for each of `batches`, whose arrays have the steps as their first axis.

    Args:
      resident: the training split on the device, image uint8 [N, H, W, C] and label int32 [N], from
        which the batches take their examples by index; empty where they bring their own.
    """

    def body(carry, batch):
        batch = gather(resident, batch["index"]) if resident else batch
        return train_step(recipe, *carry, batch), None

    if batches["index"].shape[0] == 1:
        return body((state, metrics), jax.tree.map(lambda x: x[0], batches))[0]
    return jax.lax.scan(body, (state, metrics), batches)[0]


def eval_step(
    network: Network,
    normalization: Normalization,
    superclass_of: np.ndarray | None,
    params: Arrays,
    batch_stats: Arrays,
    metrics: Metrics,
    batch: Arrays,
) -> Metrics:
    """Returns `metrics` with this batch added: image, label and mask as `eval_batches` has them."""
    images = normalization(batch["image"].astype(jnp.float32))
    logits, _ = network.apply(params, batch_stats, images, None, train=False)
    losses = cross_entropy(logits, batch["label"])
    seen = measure(logits, batch["label"], batch["mask"], losses, superclass_of)
    return metrics + jax.lax.psum(seen, AXIS)
