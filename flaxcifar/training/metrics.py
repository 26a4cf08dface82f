"""Metrics as sums and a count, which add up exactly over batches and devices."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.typing import ArrayLike

from flaxcifar.config.knobs import metric_name
from flaxcifar.errors import UserError
from flaxcifar.registry import Registry
from flaxcifar.rules import at_least

# Functions of float32 logits [B, classes] and int32 labels [B] that return a number per example.
METRICS = Registry("metric")


@METRICS.register
def top_k(logits: jax.Array, labels: jax.Array, *, k: Annotated[int, at_least(1)] = 3) -> jax.Array:
    """Returns whether the label is among the `k` classes with the highest logits."""
    return _ranked_before(logits, labels) < k


@dataclasses.dataclass(frozen=True)
class OwnMetric:
    """A metric that a config names. Equal ones share compiled programs.

    Attributes:
      name: of its column; see `metric_name`.
      function: registered in `METRICS`.
      keywords: pairs of a keyword of `function` and its value.
    """

    name: str
    function: Callable[..., jax.Array]
    keywords: tuple[tuple[str, Any], ...]

    def __call__(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns a float32 number per example [B]."""
        values = self.function(logits, labels, **dict(self.keywords))
        if values.shape != labels.shape:
            raise UserError(
                f"metric {self.name!r} must return one number per example, {list(labels.shape)}, "
                f"got {list(values.shape)}"
            )
        return values.astype(jnp.float32)


def own_metrics(specs: Sequence[Mapping[str, Any]]) -> tuple[OwnMetric, ...]:
    """Returns the metrics of `config.metrics`.

    Raises:
      UserError: a name, keyword or value is not valid.
    """
    checked = [(metric_name(spec), *METRICS.check(spec)) for spec in specs]
    return tuple(OwnMetric(name, f, tuple(kwargs.items())) for name, f, kwargs in checked)


class Metrics(struct.PyTreeNode):
    """Sums over examples, float32 scalars. Fields that do not apply stay 0.

    `own` has the sums of the config's own metrics by name.
    """

    loss: jax.Array
    penalty: jax.Array
    correct: jax.Array
    top5_correct: jax.Array
    coarse_correct: jax.Array
    count: jax.Array
    own: dict[str, jax.Array]

    @classmethod
    def zero(cls, own: Sequence[OwnMetric] = ()) -> "Metrics":
        """Returns the sums over no examples."""
        zero = jnp.zeros((), jnp.float32)
        fixed = {name: zero for name in cls.__dataclass_fields__ if name != "own"}
        return cls(**fixed, own={metric.name: zero for metric in own})

    def __add__(self, other: "Metrics") -> "Metrics":
        return jax.tree.map(jnp.add, self, other)


def measure(
    logits: jax.Array,
    labels: jax.Array,
    mask: ArrayLike,
    losses: jax.Array,
    superclass_of: ArrayLike | Sequence[int] | None,
    penalty: ArrayLike = 0.0,
    own: Sequence[OwnMetric] = (),
) -> Metrics:
    """Returns the sums over one batch.

    Args:
      logits: float32 [B, classes].
      labels: int32 [B].
      mask: float32 [B] or 1.0; 0 excludes an example.
      losses: float32 [B].
      superclass_of: int32 [classes], or None without superclasses.
      penalty: the L2 term of the batch's mean loss.
      own: metrics of the config.
    """
    mask = jnp.broadcast_to(jnp.asarray(mask, jnp.float32), labels.shape)
    prediction = jnp.argmax(logits, axis=-1)
    before = _ranked_before(logits, labels)
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
        own={m.name: jnp.sum(jnp.where(mask > 0, m(logits, labels), 0.0)) for m in own},
    )


def _ranked_before(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the number of classes that rank before the label, int32 [B].

    Equal logits rank by class. Counts all classes if the logits are NaN.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    later = jnp.arange(logits.shape[-1])[None] >= labels[:, None]
    # Sorting would cost far more.
    return jnp.sum(~((logits < own) | ((logits == own) & later)), axis=-1)


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
    values |= {name: float(total) / count for name, total in host.own.items()}
    return values | {"examples": int(count)}
