"""Metrics as sums and a count, which add up exactly over batches and devices."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.typing import ArrayLike


class Metrics(struct.PyTreeNode):
    """Sums over examples, float32 scalars. Fields that do not apply stay 0."""

    loss: jax.Array
    penalty: jax.Array
    correct: jax.Array
    top5_correct: jax.Array
    coarse_correct: jax.Array
    count: jax.Array

    @classmethod
    def zero(cls) -> "Metrics":
        """Returns the sums over no examples."""
        return cls(**{name: jnp.zeros((), jnp.float32) for name in cls.__dataclass_fields__})

    def __add__(self, other: "Metrics") -> "Metrics":
        return jax.tree.map(jnp.add, self, other)


def measure(
    logits: jax.Array,
    labels: jax.Array,
    mask: ArrayLike,
    losses: jax.Array,
    superclass_of: ArrayLike | Sequence[int] | None,
    penalty: ArrayLike = 0.0,
) -> Metrics:
    """Returns the sums over one batch.

    Args:
      logits: float32 [B, classes].
      labels: int32 [B].
      mask: float32 [B] or 1.0; 0 excludes an example.
      losses: float32 [B].
      superclass_of: int32 [classes], or None without superclasses.
      penalty: the L2 term of the batch's mean loss.
    """
    mask = jnp.broadcast_to(jnp.asarray(mask, jnp.float32), labels.shape)
    prediction = jnp.argmax(logits, axis=-1)
    # The number of classes ranked before the label; equal logits rank by class. Sorting would cost
    # far more. Counts all classes if the logits are NaN.
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    later = jnp.arange(logits.shape[-1])[None] >= labels[:, None]
    before = jnp.sum(~((logits < own) | ((logits == own) & later)), axis=-1)
    if superclass_of is None:
        coarse = jnp.zeros(labels.shape, bool)
    else:
        superclass_of = jnp.asarray(superclass_of)
        coarse = superclass_of[prediction] == superclass_of[labels]
    count = jnp.sum(mask)
    # Selected rather than multiplied: a product would keep a padded example's NaN.
    return Metrics(
        loss=jnp.sum(jnp.where(mask > 0, losses, 0.0)),
        penalty=count * penalty,
        correct=jnp.sum(mask, where=prediction == labels),
        top5_correct=jnp.sum(mask, where=before < 5),
        coarse_correct=jnp.sum(mask, where=coarse),
        count=count,
    )


def cross_entropy(
    logits: jax.Array, labels: jax.Array, smoothing: float | jax.Array = 0.0
) -> jax.Array:
    """Returns the softmax cross-entropy of each example, float32 [B], with smoothed targets."""
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32)
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, smoothing))


def compute(metrics: Metrics, *, coarse: bool = False, penalty: bool = False) -> dict[str, float]:
    """Returns the means over all examples as Python numbers, and the number of `examples`.

    Args:
      coarse: include the accuracy on superclasses.
      penalty: include the L2 penalty.

    Raises:
      ValueError: no example was counted.
    """
    host = jax.device_get(metrics)
    count = float(host.count)
    if not count:
        raise ValueError("no example was counted")
    values = {
        "loss": float(host.loss) / count,
        "accuracy": float(host.correct) / count,
        "top5_accuracy": float(host.top5_correct) / count,
    }
    if coarse:
        values["coarse_accuracy"] = float(host.coarse_correct) / count
    if penalty:
        values["penalty"] = float(host.penalty) / count
    return values | {"examples": int(count)}
