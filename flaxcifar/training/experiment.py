"""Builds the data, model, optimizer and schedule of a run from its config."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from flaxcifar import data, ops
from flaxcifar.config import plain, to_json
from flaxcifar.config.changes import flatten
from flaxcifar.config.knobs import KNOBS, NAMED
from flaxcifar.data.augment import Augment, make_augment
from flaxcifar.data.dataset import Dataset
from flaxcifar.data.normalization import Normalization, statistics
from flaxcifar.data.order import epoch_indices
from flaxcifar.data.pipelines import Pipeline, make_pipeline
from flaxcifar.devices.parallel import per_device
from flaxcifar.errors import UserError
from flaxcifar.models import MODELS
from flaxcifar.models.network import Network
from flaxcifar.optim.averaging import Lookahead
from flaxcifar.optim.optimizers import check_optimizer, is_traced
from flaxcifar.optim.param_groups import (
    FROZEN,
    Group,
    assign_groups,
    frozen_paths,
    make_groups,
    make_tx,
    own_optimizers,
)
from flaxcifar.optim.plateau import make_plateau
from flaxcifar.optim.schedules import make_schedule
from flaxcifar.rules import MAX_STEPS
from flaxcifar.training.metrics import own_metrics
from flaxcifar.training.networks import check_size, initialize, make_network
from flaxcifar.training.selection import Selection
from flaxcifar.training.step import Arrays, Hyperparams, Recipe

# Number of training images that a model may inspect before the first step.
_SAMPLE = 5000

# From dict(name=..., **kwargs) to a schedule.
ScheduleOf = Callable[[Mapping[str, Any]], optax.Schedule]
MakeTx = Callable[[Arrays], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config with its data, model and schedule, constant during a run.

    Attributes:
      train_indices, validation_indices: int32 positions in the training split.
      params, batch_stats: flat dicts of initial values.
      proxy: those of the network that selects examples, None without one.
      groups: how each parameter trains, by path.
      schedule: factor of the learning rate by step.
      sizes: pairs (step, size): the size of training images before that step.
      remarks: lines to print in the banner.
    """

    config: Any
    dataset: Dataset
    train_indices: np.ndarray
    validation_indices: np.ndarray
    recipe: Recipe
    hyperparams: Hyperparams
    normalization: Normalization
    params: Arrays
    batch_stats: Arrays
    proxy: tuple[Arrays, Arrays] | None
    groups: Mapping[str, Group]
    schedule: optax.Schedule
    sizes: tuple[tuple[int, int], ...]
    remarks: tuple[str, ...]

    @property
    def pipeline(self) -> Pipeline:
        """The input pipeline that the config names."""
        return make_pipeline(self.config.data.pipeline)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.recipe.total_steps

    @property
    def total_epochs(self) -> int:
        """Epochs of the whole run, including a partial last one."""
        return -(-self.total_steps // self.recipe.steps_per_epoch)

    def epoch_batches(self, epoch: int) -> np.ndarray:
        """Returns the indices of an epoch's batches, int32 [steps, B], up to the end of the run."""
        config, per_epoch = self.config, self.recipe.steps_per_epoch
        batches = epoch_indices(self.train_indices, config.seed, epoch, config.batch_size)
        return batches[: self.total_steps - epoch * per_epoch]

    def image_size(self, step: int) -> int:
        """Returns the size of a step's training images; 0 means the size of the dataset."""
        return next((size for end, size in self.sizes if step < end), 0)

    def learning_rate(self, step: int, scale: float) -> float:
        """Returns the learning rate of a step, given `TrainState.learning_rate_scale`."""
        return self.config.optimizer.learning_rate * float(self.schedule(step)) * scale


def build(config: Any, dataset: Dataset | None = None) -> Experiment:
    """Builds the experiment of a checked config.

    Args:
      dataset: used instead of the config's.

    Raises:
      UserError: for wrong names, keywords, data, numbers of devices or lengths.
    """
    augment = _check_before_loading(config)
    dataset = dataset or data.load(config.data)
    train, validation = dataset.hold_out(config.data.validation_percent, config.seed)
    lengths = _lengths(config, len(train))

    def schedule_of(spec: Mapping[str, Any]) -> optax.Schedule:
        return make_schedule(spec, **lengths)

    schedule = schedule_of(config.schedule)
    remarks = _remarks(config)

    normalization = statistics(dataset.train.images, train, config.data.normalization)
    start = functools.partial(_start, config, dataset, train, normalization)
    network, params, batch_stats = start("model")
    ops.self_test(network.convolution, config.precision)
    if config.init_from:
        params, batch_stats, remark = initialize(config, params, batch_stats)
        remarks.append(remark)
    groups = _groups(config, params, schedule_of)
    selection, proxy = None, None
    if config.selection.keep_percent < 100:
        proxy_network, *arrays = start("proxy")
        proxy = arrays[0], arrays[1]
        selection = _selection(config, proxy_network, proxy[0], schedule, schedule_of)
    recipe = Recipe(
        identity=_identity(config, dataset, network, len(train), lengths["total_steps"]),
        network=network,
        make_tx=_tx(config, schedule, groups),
        augment=augment,
        frozen=frozen_paths(groups),
        penalizes=bool(config.l2.coefficient),
        l2_paths=_penalized(config, groups),
        ema_decay=config.ema_decay,
        lookahead=Lookahead(*(config.lookahead[k] for k in ("every_steps", "decay", "power"))),
        selection=selection,
        superclass_of=dataset.superclass_of,
        metrics=own_metrics(plain(config.metrics)),
        **lengths,
    )
    hyperparams = _hyperparams(config, normalization)
    # Raises mistakes before anything is written.
    jax.eval_shape(lambda values: recipe.make_tx(values).init(params), hyperparams.optimizer)
    return Experiment(
        config=config,
        dataset=dataset,
        train_indices=train,
        validation_indices=validation,
        recipe=recipe,
        hyperparams=hyperparams,
        normalization=normalization,
        params=params,
        batch_stats=batch_stats,
        proxy=proxy,
        groups=groups,
        schedule=schedule,
        sizes=_sizes(config, network, recipe.total_steps),
        remarks=tuple(remarks),
    )


def _check_before_loading(config: Any) -> Augment:
    """Checks what does not depend on the data, which may take minutes to download and decode.

    Returns:
      The augmentation.

    Raises:
      UserError: for a wrong batch size, model, optimizer or augmentation.
    """
    for key in ("batch_size", "eval_batch_size"):
        per_device(config[key], key)
    size = config.data.image_size
    augment = make_augment(config.augment, (size, size, 3))
    MODELS.check(plain(config.model))
    own_metrics(plain(config.metrics))
    for spec in (plain(config.optimizer), *own_optimizers(plain(config.param_groups))):
        check_optimizer(spec)
    return augment


def _remarks(config: Any) -> list[str]:
    """Returns remarks on settings that are valid but probably mistakes."""
    remarks = []
    plateau, patience = make_plateau(config.schedule), config.early_stopping.patience
    if plateau is not None and 0 < patience <= plateau.patience:
        remarks.append(
            f"early stopping (patience {patience}) acts before the learning rate is reduced "
            f"(patience {plateau.patience})"
        )
    if config.precision == "bfloat16" and jax.default_backend() == "cpu" and not ops.has_bfloat16():
        remarks.append(
            "this processor has no bfloat16 arithmetic (AVX-512 BF16 or AMX): "
            "precision=float32 is as fast and more precise"
        )
    return remarks


def _lengths(config: Any, train_examples: int) -> dict[str, int]:
    """Returns `steps_per_epoch` and `total_steps`."""
    if config.batch_size > train_examples:
        raise UserError(
            f"batch_size must be at most {train_examples}, the number of training images, "
            f"got {config.batch_size}"
        )
    steps_per_epoch = train_examples // config.batch_size
    total_steps = config.total_steps or steps_per_epoch * config.total_epochs
    if total_steps > MAX_STEPS:
        raise UserError(
            f"total_epochs must be at most {MAX_STEPS // steps_per_epoch} (steps are counted in "
            f"int32), got {config.total_epochs}"
        )
    return {"steps_per_epoch": steps_per_epoch, "total_steps": total_steps}


def _start(
    config: Any,
    dataset: Dataset,
    train: np.ndarray,
    normalization: Normalization,
    key: str,
) -> tuple[Network, Arrays, Arrays]:
    """Returns the network of `config[key]` and its initial parameters and statistics."""
    network, init = make_network(config, len(dataset.class_names), key)
    params, batch_stats = init(config.seed)

    def sample() -> np.ndarray:
        # Evenly spaced: the split may be sorted by class.
        some = np.linspace(0, len(train) - 1, min(len(train), _SAMPLE)).astype(int)
        return normalization(dataset.train.images[train[some]].astype(np.float32))

    return network, network.fitted(params, batch_stats, sample), batch_stats


def _groups(config: Any, params: Arrays, schedule_of: ScheduleOf) -> dict[str, Group]:
    entries = plain(config.param_groups)
    return make_groups(params, entries, plain(config.schedule), schedule_of)


def _tx(config: Any, schedule: optax.Schedule, groups: Mapping[str, Group]) -> MakeTx:
    return functools.partial(
        make_tx,
        config.optimizer.to_dict(),
        schedule,
        groups,
        gradient_clip=config.gradient_clip,
        accumulation_steps=config.accumulation_steps,
    )


def _selection(
    config: Any,
    network: Network,
    params: Arrays,
    schedule: optax.Schedule,
    schedule_of: ScheduleOf,
) -> Selection:
    """Returns the selection of examples by a proxy network with these parameters."""
    groups = _groups(config, params, schedule_of)
    kept = round(config.batch_size * config.selection.keep_percent / 100)
    per_device(kept, "the number of selected examples")
    return Selection(
        network=network,
        make_tx=functools.partial(make_tx, config.optimizer.to_dict(), schedule, groups),
        frozen=frozen_paths(groups),
        kept=kept,
        every=config.selection.every_steps,
    )


def _penalized(config: Any, groups: Mapping[str, Group]) -> tuple[str, ...]:
    """Returns the paths of the trained parameters that the L2 penalty includes."""
    if not config.l2.coefficient:
        return ()
    marks = assign_groups(groups, ((config.l2.pattern, 0.0),))
    return tuple(path for path in groups if marks[path] == 0.0 and groups[path] != FROZEN)


def _hyperparams(config: Any, normalization: Normalization) -> Hyperparams:
    mean, divisor = normalization.arrays()
    traced = {key: value for key, value in config.optimizer.items() if is_traced(key, value)}
    arrays: dict[str, Any] = dict(
        seed=np.uint32(config.seed),
        mean=mean,
        divisor=divisor,
        label_smoothing=np.float32(config.label_smoothing),
        l2=np.float32(config.l2.coefficient),
        optimizer={key: np.float32(value) for key, value in traced.items()},
    )
    return Hyperparams(**arrays)


def _sizes(config: Any, network: Network, total_steps: int) -> tuple[tuple[int, int], ...]:
    for _, size in config.progressive_sizes:
        check_size(network, size)
    return tuple(
        (round(percent / 100 * total_steps), size) for percent, size in config.progressive_sizes
    )


def _identity(
    config: Any, dataset: Dataset, network: Network, train_examples: int, total_steps: int
) -> str:
    """Returns text that is equal for two configs only if they can share compiled steps.

    It contains everything except the arguments of the steps and what only the host reads.
    """
    values = to_json(config)
    values["optimizer"] = {
        key: None if is_traced(key, value) else value for key, value in values["optimizer"].items()
    }
    flat = flatten(values, keep=NAMED)
    compiled = {key: flat[key] for key, knob in KNOBS.items() if knob.compiled}
    coarse = dataset.superclass_of
    facts = (
        bool(config.l2.coefficient),
        dataset.train.images.shape[1:],
        len(dataset.class_names),
        None if coarse is None else coarse.tolist(),
        train_examples,
        total_steps,
        network.convolution,
    )
    return json.dumps([compiled, facts])
