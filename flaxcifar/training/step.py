"""The training and evaluation steps: pure functions of one device's share of a batch."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from flaxcifar.data.augment import Augment, resize
from flaxcifar.data.resident import gather
from flaxcifar.devices.parallel import AXIS
from flaxcifar.models.network import Network
from flaxcifar.ops import hashing
from flaxcifar.training.metrics import Metrics, cross_entropy, measure
from flaxcifar.training.selection import ProxyState, Selection
from flaxcifar.training.test_time import Views

Arrays = dict[str, jax.Array]


class TrainState(struct.PyTreeNode):
    """All that training changes; parameters and statistics are flat dicts by path.

    Attributes:
      step: int32, batches seen.
      params, batch_stats: float32 arrays.
      opt_state: of optax.
      ema: moving averages of the trained parameters, or the slow weights of lookahead; empty where
        none are kept.
      learning_rate_scale: float32, what reduce-on-plateau has left of the learning rate.
      bad_step: int32, the first step whose loss was not finite, -1 before that.
      proxy: the small network that selects examples, or an empty dict.
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
        """The parameters to evaluate: averaged where averages are kept."""
        return {**self.params, **self.ema}


class Hyperparams(struct.PyTreeNode):
    """What the compiled steps take as arguments: runs that differ in nothing else share them.

    Attributes:
      seed: uint32.
      mean, divisor: float32 [C] or [1]: the normalization.
      label_smoothing, l2: float32.
      optimizer: float32 by keyword of `config.optimizer`.
    """

    seed: jax.Array
    mean: jax.Array
    divisor: jax.Array
    label_smoothing: jax.Array
    l2: jax.Array
    optimizer: Arrays


@dataclasses.dataclass(frozen=True)
class Lookahead:
    """Slow weights that the trained ones are set to every so many steps (Zhang et al., 2019).

    Attributes:
      every: steps; 0 for no slow weights.
      decay: what the slow weights keep of themselves then, at the end of the run.
      power: the decay grows with this power of the share of the run that is done.
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


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """What the steps know beyond their arguments; fixed for a whole run.

    Attributes:
      identity: words that differ wherever anything else here does, but for `image_size`. Recipes
        are equal, and share compiled steps, where they and `image_size` are.
      network: the model as pure functions.
      make_tx: given `Hyperparams.optimizer`, returns the transformation that takes gradients of all
        paths; those of `frozen` are zero.
      frozen: paths of parameters that receive no gradient.
      penalizes: whether the loss has an L2 penalty, over the trained parameters of `l2_paths`.
      superclass_of: int32 [classes] or None.
      selection: which examples of a batch are trained on; None for all.
      steps_per_epoch: tells the augmentation which epoch it is.
      image_size: images are resized to it after their augmentation; 0 leaves them as they are.
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
    image_size: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, int]:
        return self.identity, self.image_size


def create_state(
    recipe: Recipe,
    hyperparams: Hyperparams,
    params: Arrays,
    batch_stats: Arrays,
    proxy: tuple[Arrays, Arrays] | None = None,
) -> TrainState:
    """Returns the state before the first step.

    `proxy` are the parameters and statistics of the network that selects, where the recipe has one.
    """
    trained = {path: value for path, value in params.items() if path not in recipe.frozen}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=recipe.make_tx(hyperparams.optimizer).init(params),
        ema=trained if recipe.ema_decay or recipe.lookahead.every else {},
        learning_rate_scale=jnp.ones((), jnp.float32),
        bad_step=jnp.full((), -1, jnp.int32),
        proxy=recipe.selection.start(hyperparams.optimizer, *proxy) if proxy else {},
    )


def train_step(
    recipe: Recipe, hyperparams: Hyperparams, state: TrainState, metrics: Metrics, batch: Arrays
) -> tuple[TrainState, Metrics]:
    """Returns the state after one update, and the metrics of what it trained on added.

    Gradients and metrics are reduced over the devices of `AXIS`, and so are the statistics of
    BatchNorm, inside the model: every device returns the same values.

    Args:
      batch: this device's share: uint8 image [B, H, W, C], int32 label [B], int32 index [B] of the
        examples in the training split.
    """
    epoch = state.step // recipe.steps_per_epoch
    images = recipe.augment(batch["image"], batch["index"], hyperparams.seed, epoch)
    if recipe.image_size:
        images = resize(images, recipe.image_size)
    images = (images - hyperparams.mean) / hyperparams.divisor
    dropout_seeds = hashing.combine(hyperparams.seed, state.step, batch["index"])
    batch = {"image": images, "label": batch["label"], "seed": dropout_seeds}
    proxy = state.proxy
    if recipe.selection:
        arguments = (hyperparams.optimizer, hyperparams.label_smoothing, state.step, batch)
        proxy, batch = recipe.selection(proxy, *arguments)
    trained = {path: x for path, x in state.params.items() if path not in recipe.frozen}

    def loss_fn(trained: Arrays):
        logits, batch_stats = recipe.network.apply(
            {**state.params, **trained},
            state.batch_stats,
            batch["image"],
            batch["seed"],
            train=True,
            frozen=recipe.frozen,
        )
        losses = cross_entropy(logits, batch["label"], hyperparams.label_smoothing)
        penalty = 0.0
        if recipe.penalizes:
            squares = sum(jnp.sum(jnp.square(trained[path])) for path in recipe.l2_paths)
            penalty = hyperparams.l2 * squares
        return jnp.mean(losses) + penalty, (logits, losses, penalty, batch_stats)

    grads, (logits, losses, penalty, batch_stats) = jax.grad(loss_fn, has_aux=True)(trained)
    grads = jax.lax.pmean(grads, AXIS)
    # The zeros are never computed: a frozen path's update is zero whatever its gradient.
    zeros = {path: jnp.zeros_like(state.params[path]) for path in recipe.frozen}
    tx = recipe.make_tx(hyperparams.optimizer)
    updates, opt_state = tx.update({**grads, **zeros}, state.opt_state, state.params)
    trained = {
        path: value + updates[path] * state.learning_rate_scale for path, value in trained.items()
    }
    ema = state.ema
    if recipe.ema_decay:
        # Short at first, so that the average forgets the initial parameters.
        decay = jnp.minimum(recipe.ema_decay, (1 + state.step) / (10 + state.step))
        ema = {path: decay * ema[path] + (1 - decay) * trained[path] for path in trained}
    if recipe.lookahead.every:
        ema, trained = recipe.lookahead(state.step, recipe.total_steps, ema, trained)
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
        proxy=proxy,
    )
    return state, metrics + seen


def train_steps(
    recipe: Recipe,
    hyperparams: Hyperparams,
    state: TrainState,
    metrics: Metrics,
    resident: Arrays,
    count: jax.Array,
    batches: Arrays,
) -> tuple[TrainState, Metrics]:
    """Runs one step for each of the first `count` of `batches`: their arrays' first axis.

    The count is an argument of the compiled program, so that one serves every length, a shorter
    last one included. Where there is room for one batch, it is not in a loop.

    Args:
      resident: the training split on the device, as `data.resident.put` has it, from which the
        batches take their examples by index; empty where they bring their own.
    """

    def body(n, carry):
        batch = jax.tree.map(lambda x: x[n], batches)
        batch = gather(resident, batch["index"]) if resident else batch
        return train_step(recipe, hyperparams, *carry, batch)

    if batches["index"].shape[0] == 1:
        return body(0, (state, metrics))
    return jax.lax.fori_loop(0, count, body, (state, metrics))


def eval_step(
    network: Network,
    superclass_of: Sequence[int] | None,
    views: Views,
    variables: tuple[Arrays, Arrays],
    normalization: tuple[jax.Array, jax.Array],
    metrics: dict[str, Metrics],
    batch: Arrays,
) -> dict[str, Metrics]:
    """Returns `metrics` with this batch added: image, label and mask as `eval_batches` has them.

    Args:
      views: what the logits are averaged over for "augmented"; its first is the image itself, for
        "single". With one view there is no "augmented".
      variables: parameters and batch statistics.
      normalization: what is subtracted from images and what divides them.
    """
    mean, divisor = normalization
    images = (batch["image"].astype(jnp.float32) - mean) / divisor
    logits = [network.apply(*variables, view, None, train=False)[0] for view in views.of(images)]
    found = {"single": logits[0]}
    if len(logits) > 1:
        found["augmented"] = sum(w * x for w, x in zip(views.weights, logits, strict=True))

    def seen(logits: jax.Array) -> Metrics:
        losses = cross_entropy(logits, batch["label"])
        return measure(logits, batch["label"], batch["mask"], losses, superclass_of)

    added = jax.lax.psum({name: seen(logits) for name, logits in found.items()}, AXIS)
    return {name: metrics[name] + added[name] for name in added}
