"""Training and evaluation steps, as pure functions of one device's share of a batch."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.typing import ArrayLike

from flaxcifar.data.augment import Augment
from flaxcifar.data.augment.resizing import resize
from flaxcifar.data.normalization import normalize
from flaxcifar.data.pipelines.resident import gather
from flaxcifar.devices.parallel import AXIS
from flaxcifar.models.network import Network
from flaxcifar.ops import hashing
from flaxcifar.optim.averaging import Lookahead, update_ema
from flaxcifar.training.metrics import Metrics, OwnMetric, cross_entropy, measure
from flaxcifar.training.selection import ProxyState, Selection
from flaxcifar.training.test_time import Views

Arrays = dict[str, jax.Array]


class TrainState(struct.PyTreeNode):
    """The state of training; parameters and statistics are flat dicts by path.

    Attributes:
      step: int32, the number of batches trained on.
      params, batch_stats: float32 arrays.
      opt_state: the state of the optax transformation.
      ema: moving averages of the trained parameters or the slow weights of lookahead; empty
        without either.
      learning_rate_scale: float32, set by reduce-on-plateau and rollbacks.
      bad_step: int32, the first step whose loss was not finite, or -1.
      proxy: state of the network that selects examples; an empty dict without one.
    """

    step: jax.Array
    params: Arrays
    batch_stats: Arrays
    opt_state: Any
    ema: Arrays
    learning_rate_scale: jax.Array
    bad_step: jax.Array
    proxy: ProxyState | Arrays = struct.field(default_factory=dict)

    @property
    def eval_params(self) -> Arrays:
        """The parameters to evaluate: averages if there are any."""
        return {**self.params, **self.ema}


class Hyperparams(struct.PyTreeNode):
    """Arguments of the compiled steps; runs that differ only in these share one program.

    Attributes:
      seed: uint32.
      mean, divisor: float32 [C] or [1], of the normalization.
      label_smoothing, l2: float32.
      optimizer: float32 by keyword of `config.optimizer`.
    """

    seed: jax.Array
    mean: jax.Array
    divisor: jax.Array
    label_smoothing: jax.Array
    l2: jax.Array
    optimizer: Arrays


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """The static part of the compiled steps, fixed for a whole run.

    Attributes:
      identity: text that differs whenever any other attribute except `image_size` and `metrics`
        does. Recipes that are equal in these three are equal and share compiled steps.
      network: the model as pure functions.
      make_tx: returns the transformation of all paths' gradients, given `Hyperparams.optimizer`;
        it receives zeros for `frozen` paths.
      frozen: paths of parameters that receive no gradient.
      penalizes: whether the loss includes an L2 penalty on the parameters of `l2_paths`.
      superclass_of: int32 [classes] or None.
      metrics: measured in addition.
      selection: chooses the examples of a batch to train on; None trains on all.
      steps_per_epoch: for the epoch, which augmentation depends on.
      image_size: size to which augmented images are resized; 0 keeps their size.
    """

    identity: str
    network: Network
    make_tx: Callable[[Arrays], optax.GradientTransformation]
    augment: Augment
    steps_per_epoch: int
    total_steps: int
    frozen: frozenset[str] = frozenset()
    penalizes: bool = False
    l2_paths: tuple[str, ...] = ()
    ema_decay: float = 0.0
    lookahead: Lookahead = Lookahead()
    selection: Selection | None = None
    superclass_of: np.ndarray | None = None
    metrics: tuple[OwnMetric, ...] = ()
    image_size: int = 0

    def trained(self, params: Arrays) -> Arrays:
        """Returns the parameters that receive gradients."""
        return {path: value for path, value in params.items() if path not in self.frozen}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return self.identity, self.image_size, self.metrics


@functools.partial(jax.jit, static_argnums=0)  # uncompiled, it runs a program for every shape
def create_state(
    recipe: Recipe,
    hyperparams: Hyperparams,
    params: Arrays,
    batch_stats: Arrays,
    proxy: tuple[Arrays, Arrays] | None = None,
) -> TrainState:
    """Returns the state before the first step.

    `proxy` has the parameters and statistics of the network that selects examples, if any.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=recipe.make_tx(hyperparams.optimizer).init(params),
        ema=recipe.trained(params) if recipe.ema_decay or recipe.lookahead.every else {},
        learning_rate_scale=jnp.ones((), jnp.float32),
        bad_step=jnp.full((), -1, jnp.int32),
        proxy=recipe.selection.start(hyperparams.optimizer, *proxy)
        if recipe.selection and proxy
        else {},
    )


def train_step(
    recipe: Recipe, hyperparams: Hyperparams, state: TrainState, metrics: Metrics, batch: Arrays
) -> tuple[TrainState, Metrics]:
    """Returns the state after one update, and `metrics` plus those of the batch.

    Gradients, metrics and batch statistics are reduced over the devices of `AXIS`, so every device
    returns the same values. With a selection, the metrics are those of the selected examples.

    Args:
      batch: this device's share: uint8 image [B, H, W, C], int32 label [B], int32 index [B] of the
        examples in the training split.
    """
    batch = _prepare(recipe, hyperparams, state.step, batch)
    proxy: Any = state.proxy
    if recipe.selection:
        arguments = (hyperparams.optimizer, hyperparams.label_smoothing, state.step, batch)
        proxy, batch = recipe.selection(proxy, *arguments)
    grads, (logits, losses, penalty, batch_stats) = _gradients(recipe, hyperparams, state, batch)
    trained, opt_state, ema = _update(recipe, hyperparams, state, grads)
    seen = measure(
        logits, batch["label"], 1.0, losses, recipe.superclass_of, penalty, recipe.metrics
    )
    seen = jax.lax.psum(seen, AXIS)
    bad = (state.bad_step < 0) & ~jnp.isfinite(seen.loss + seen.penalty)
    state = state.replace(
        step=state.step + 1,
        params={**state.params, **trained},
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema=ema,
        bad_step=jnp.where(bad, state.step, state.bad_step),
        proxy=proxy,
    )
    return state, metrics + seen


def _prepare(recipe: Recipe, hyperparams: Hyperparams, step: jax.Array, batch: Arrays) -> Arrays:
    """Returns augmented, resized and normalized images, labels and dropout seeds."""
    epoch = step // recipe.steps_per_epoch
    images = recipe.augment(batch["image"], batch["index"], hyperparams.seed, epoch)
    if recipe.image_size:
        images = resize(images, recipe.image_size)
    images = normalize(images, hyperparams.mean, hyperparams.divisor)
    seeds = hashing.combine(hyperparams.seed, step, batch["index"])
    return {"image": images, "label": batch["label"], "seed": seeds}


def _gradients(
    recipe: Recipe, hyperparams: Hyperparams, state: TrainState, batch: Arrays
) -> tuple[Arrays, tuple[jax.Array, jax.Array, jax.Array | float, Arrays]]:
    """Returns the mean gradients of the trained parameters over all devices.

    Also returns this device's logits, losses and L2 penalty, and the new batch statistics.
    """

    def loss_fn(trained: Arrays) -> tuple[jax.Array, Any]:
        logits, batch_stats = recipe.network.apply(
            {**state.params, **trained},
            state.batch_stats,
            batch["image"],
            batch["seed"],
            train=True,
            frozen=recipe.frozen,
        )
        losses = cross_entropy(logits, batch["label"], hyperparams.label_smoothing)
        penalty: ArrayLike = 0.0
        if recipe.penalizes:
            squares = sum(jnp.sum(jnp.square(trained[path])) for path in recipe.l2_paths)
            penalty = hyperparams.l2 * squares
        return jnp.mean(losses) + penalty, (logits, losses, penalty, batch_stats)

    grads, aux = jax.grad(loss_fn, has_aux=True)(recipe.trained(state.params))
    return jax.lax.pmean(grads, AXIS), aux


def _update(
    recipe: Recipe, hyperparams: Hyperparams, state: TrainState, grads: Arrays
) -> tuple[Arrays, Any, Arrays]:
    """Returns the trained parameters, the optimizer state and the averages after one update."""
    # XLA removes the zeros: the update of a frozen path does not depend on its gradient.
    zeros = {path: jnp.zeros_like(state.params[path]) for path in recipe.frozen}
    tx = recipe.make_tx(hyperparams.optimizer)
    updates, opt_state = tx.update({**grads, **zeros}, state.opt_state, state.params)
    trained = {
        path: value + updates[path] * state.learning_rate_scale
        for path, value in recipe.trained(state.params).items()
    }
    ema = state.ema
    if recipe.ema_decay:
        ema = update_ema(recipe.ema_decay, state.step, ema, trained)
    if recipe.lookahead.every:
        ema, trained = recipe.lookahead(state.step, recipe.total_steps, ema, trained)
    return trained, opt_state, ema


def train_steps(
    recipe: Recipe,
    hyperparams: Hyperparams,
    state: TrainState,
    metrics: Metrics,
    resident: Arrays,
    count: jax.Array,
    batches: Arrays,
) -> tuple[TrainState, Metrics]:
    """Runs one step for each of the first `count` batches.

    The count is an argument of the compiled program, so a shorter last dispatch needs no program
    of its own.

    Args:
      resident: the training split on the device (`ResidentPipeline.put`), from which batches take
        their examples by index; empty if the batches contain them.
    """

    def body(n, carry):
        batch = jax.tree.map(lambda x: x[n], batches)
        batch = gather(resident, batch["index"]) if resident else batch
        return train_step(recipe, hyperparams, carry[0], carry[1], batch)

    if batches["index"].shape[0] == 1:
        return body(0, (state, metrics))
    return jax.lax.fori_loop(0, count, body, (state, metrics))


def eval_step(
    network: Network,
    superclass_of: Sequence[int] | None,
    own: Sequence[OwnMetric],
    views: Views,
    variables: tuple[Arrays, Arrays],
    normalization: tuple[jax.Array, jax.Array],
    metrics: dict[str, Metrics],
    batch: Arrays,
) -> tuple[dict[str, Metrics], jax.Array]:
    """Evaluates a batch of `eval_batches`.

    Args:
      own: metrics of the config.
      views: the views whose logits are averaged for "augmented". The first view is the image
        itself; its logits give "single". With one view there is no "augmented".
      variables: parameters and batch statistics.
      normalization: mean and divisor of the images.
      metrics: sums over earlier batches.

    Returns:
      `metrics` plus those of the batch, and the logits of "single" from all devices, float32
      [B, classes].
    """
    images = normalize(batch["image"], *normalization)
    logits = [network.apply(*variables, view, None, train=False)[0] for view in views.of(images)]
    found: dict[str, Any] = {"single": logits[0]}
    if len(logits) > 1:
        found["augmented"] = sum(w * x for w, x in zip(views.weights, logits, strict=True))

    def seen(logits: jax.Array) -> Metrics:
        losses = cross_entropy(logits, batch["label"])
        return measure(logits, batch["label"], batch["mask"], losses, superclass_of, own=own)

    added = jax.lax.psum({name: seen(logits) for name, logits in found.items()}, AXIS)
    everywhere = jax.lax.all_gather(found["single"], AXIS, tiled=True)
    return {name: metrics[name] + added[name] for name in added}, everywhere
