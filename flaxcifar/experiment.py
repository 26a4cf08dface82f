"""From a config to everything a run is made of, before its first step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxcifar import data, ops
from flaxcifar.augment import make_augment
from flaxcifar.checkpoint import describe_difference, read_best
from flaxcifar.data.dataset import Dataset
from flaxcifar.data.normalization import statistics
from flaxcifar.data.order import epoch_indices
from flaxcifar.data.split import split_validation
from flaxcifar.errors import UserError
from flaxcifar.models import MODELS
from flaxcifar.models.network import Network
from flaxcifar.optim import FROZEN, assign_groups, make_tx
from flaxcifar.parallel import AXIS, per_device
from flaxcifar.schedules import make_plateau, make_schedule
from flaxcifar.step import Arrays, Recipe


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config with its data, its model and its lengths; nothing in it changes during the run.

    Attributes:
      train_indices, validation_indices: int32 positions in the training split.
      params, batch_stats: flat dicts, where training starts.
      groups: the learning-rate scale of each parameter, or "frozen".
      schedule: factor of the learning rate by step.
      remarks: lines that the user should see.
    """

    config: Any
    dataset: Dataset
    train_indices: np.ndarray
    validation_indices: np.ndarray
    recipe: Recipe
    params: Arrays
    batch_stats: Arrays
    groups: dict[str, float | str]
    schedule: optax.Schedule
    total_steps: int
    remarks: tuple[str, ...]

    @property
    def total_epochs(self) -> int:
        """Epochs begun in a full run."""
        return -(-self.total_steps // self.recipe.steps_per_epoch)

    def epoch_batches(self, epoch: int) -> np.ndarray:
        """Returns the indices of an epoch's batches, int32 [steps, B], up to the run's end."""
        config, per_epoch = self.config, self.recipe.steps_per_epoch
        batches = epoch_indices(self.train_indices, config.seed, epoch, config.batch_size)
        return batches[: self.total_steps - epoch * per_epoch]

    def learning_rate(self, step: int, scale: float) -> float:
        """Returns the learning rate of a step under a reduce-on-plateau scale."""
        return self.config.optimizer.learning_rate * float(self.schedule(step)) * scale


def choose_convolution(config: Any) -> None:
    """Makes models compute with the config's convolution, after a trial of it on this machine."""
    ops.use(config.ops.convolution)
    ops.self_test(config.precision)


def make_network(config: Any, dataset: Dataset) -> tuple[Network, Arrays, Arrays]:
    """Returns the config's model for this dataset: its functions, parameters and statistics."""
    shape = dataset.train.images.shape[1:]
    dtype = jnp.dtype(config.precision)
    classes = len(dataset.class_names)

    def build(rngs):
        return MODELS.call(config.model.to_dict(), classes, shape, dtype, AXIS, rngs)

    return Network.create(build, config.seed)


def initialize(config: Any, params: Arrays, batch_stats: Arrays) -> tuple[Arrays, Arrays, str]:
    """Returns parameters and statistics of `config.init_from`'s best, and what was done.

    The head starts anew where its shape differs or `config.init_drop_head` is set. Raises UserError
    where anything else does not fit.
    """
    best, _ = read_best(config.init_from)
    head = {path for path in params if path.startswith("head/")}
    saved = {**best["params"], **best["batch_stats"]}
    shapes = {path: str(list(value.shape)) for path, value in {**params, **batch_stats}.items()}
    saved_shapes = {path: str(list(value.shape)) for path, value in saved.items()}
    drop = config.init_drop_head or any(shapes[path] != saved_shapes.get(path) for path in head)
    ignored = {path for path in {*shapes, *saved_shapes} if drop and path.startswith("head/")}
    difference = describe_difference(
        {path: shape for path, shape in saved_shapes.items() if path not in ignored},
        {path: shape for path, shape in shapes.items() if path not in ignored},
    )
    if difference:
        raise UserError(f"init_from={config.init_from} is of another model ({difference})")
    taken = {path: jnp.asarray(value) for path, value in saved.items() if path not in ignored}
    done = f"initialised from {config.init_from}, {'a new head' if drop else 'head included'}"
    return (
        {path: taken.get(path, value) for path, value in params.items()},
        {path: taken.get(path, value) for path, value in batch_stats.items()},
        done,
    )


def build(config: Any) -> Experiment:
    """Returns the experiment of a checked config.

    Raises UserError for whatever is wrong with names, keywords, data, devices or lengths.
    """
    remarks = []
    for key in ("batch_size", "eval_batch_size"):
        per_device(config[key], key)
    size = config.data.image_size
    augment = make_augment(config.augment, (size, size, 3))
    plateau = make_plateau(config.schedule)
    patience = config.early_stopping.patience
    if plateau is not None and 0 < patience <= plateau.patience:
        remarks.append(
            f"early stopping (patience {patience}) comes before the learning rate is reduced "
            f"(patience {plateau.patience})"
        )
    if config.precision == "bfloat16" and jax.default_backend() == "cpu" and not ops.has_bfloat16():
        remarks.append(
            "this processor multiplies no bfloat16 numbers (AVX-512 BF16 or AMX would): they save "
            "memory here, but no time; precision=float32 is likely faster"
        )
    MODELS.get(config.model.name)

    dataset = data.load(config.data)
    train, validation = split_validation(
        dataset.train.labels, config.data.validation_percent, config.seed
    )
    if config.batch_size > len(train):
        raise UserError(
            f"batch_size={config.batch_size} is larger than the {len(train)} training images"
        )
    steps_per_epoch = len(train) // config.batch_size
    total_steps = config.total_steps or steps_per_epoch * config.total_epochs
    schedule = make_schedule(config.schedule, steps_per_epoch, total_steps)

    choose_convolution(config)
    network, params, batch_stats = make_network(config, dataset)
    if config.init_from:
        params, batch_stats, done = initialize(config, params, batch_stats)
        remarks.append(done)
    groups = assign_groups(params, config.param_groups)
    frozen = frozenset(path for path, scale in groups.items() if scale == FROZEN)
    l2_paths = assign_groups(params, ((config.l2.pattern, True),)) if config.l2.coefficient else {}
    recipe = Recipe(
        network=network,
        tx=make_tx(
            config.optimizer.to_dict(),
            schedule,
            groups,
            gradient_clip=config.gradient_clip,
            accumulation_steps=config.accumulation_steps,
        ),
        augment=augment,
        normalization=statistics(dataset.train.images, train, config.data.normalization),
        seed=config.seed,
        steps_per_epoch=steps_per_epoch,
        frozen=frozen,
        l2=config.l2.coefficient,
        l2_paths=tuple(p for p, hit in l2_paths.items() if hit is True and p not in frozen),
        label_smoothing=config.label_smoothing,
        ema_decay=config.ema_decay,
        superclass_of=dataset.superclass_of,
    )
    return Experiment(
        config=config,
        dataset=dataset,
        train_indices=train,
        validation_indices=validation,
        recipe=recipe,
        params=params,
        batch_stats=batch_stats,
        groups=groups,
        schedule=schedule,
        total_steps=total_steps,
        remarks=tuple(remarks),
    )
