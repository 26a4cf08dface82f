"""From a config to everything a run is made of, before its first step."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxcifar import data, ops
from flaxcifar.config import plain, to_json
from flaxcifar.data.augment import make_augment
from flaxcifar.data.dataset import Dataset
from flaxcifar.data.normalization import Normalization, statistics
from flaxcifar.data.order import epoch_indices
from flaxcifar.data.split import split_validation
from flaxcifar.devices.parallel import AXIS, per_device
from flaxcifar.errors import UserError
from flaxcifar.models import MODELS
from flaxcifar.models.network import Network
from flaxcifar.optim.optimizers import (
    FROZEN,
    Group,
    OwnOptimizer,
    assign_groups,
    make_optimizer,
    make_tx,
)
from flaxcifar.optim.schedules import make_plateau, make_schedule
from flaxcifar.training.selection import Selection
from flaxcifar.training.step import Arrays, Hyperparams, Lookahead, Recipe
from flaxcifar.workdir.checkpoints import describe_difference, read_best

# Keywords of the optimizer that are arguments of the compiled steps.
_ARGUMENTS = frozenset({"learning_rate", "momentum", "decay", "weight_decay"})
# Sections and keys that the compiled steps do not depend on, or take as arguments.
_NOT_COMPILED = (
    "seed data early_stopping checkpoint on_nonfinite init_from init_drop_head label_smoothing "
    "eval_batch_size report steps_per_dispatch test_views total_epochs total_steps"
).split()
# Training images that a model may look at before the first step.
_FITTED = 5000


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config with its data, its model and its lengths; nothing in it changes during the run.

    Attributes:
      train_indices, validation_indices: int32 positions in the training split.
      params, batch_stats: flat dicts, where training starts.
      proxy: the same of the network that selects examples, where there is one.
      groups: the learning-rate scale of each parameter, or "frozen".
      schedule: factor of the learning rate by step.
      sizes: (step, size) pairs: until that step the training images are of that size.
      remarks: lines that the user should see.
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
    groups: dict[str, Group]
    schedule: optax.Schedule
    sizes: tuple[tuple[int, int], ...]
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

    def image_size(self, step: int) -> int:
        """Returns the size of a step's training images, 0 for that of the dataset."""
        return next((size for end, size in self.sizes if step < end), 0)

    def learning_rate(self, step: int, scale: float) -> float:
        """Returns the learning rate of a step under a reduce-on-plateau scale."""
        return self.config.optimizer.learning_rate * float(self.schedule(step)) * scale


def choose_convolution(config: Any) -> None:
    """Makes models compute with the config's convolution, after a trial of it on this machine."""
    ops.use(config.ops.convolution)
    ops.self_test(config.precision)


def make_network(config: Any, classes: int, key: str = "model") -> tuple[Network, Callable]:
    """Returns the config's model, or its proxy: functions, and parameters by seed."""
    spec = json.dumps(to_json(config[key]), sort_keys=True)
    size = config.data.image_size
    return _make_network(spec, classes, (size, size, 3), config.precision)


@functools.lru_cache(maxsize=8)
def _make_network(
    spec: str, classes: int, shape: tuple[int, int, int], precision: str
) -> tuple[Network, Callable]:
    """Cached, so that several runs of one model compile its initialisation once."""
    dtype = jnp.dtype(precision)

    def build(rngs):
        return MODELS.call(plain(json.loads(spec)), classes, shape, dtype, AXIS, rngs)

    return Network.create(build)


def start(network: Network, init: Callable, seed: int, sample: Callable) -> tuple[Arrays, Arrays]:
    """Returns the parameters and statistics of a seed, fitted to a sample of training images."""
    params, batch_stats = init(seed)
    return network.fitted(params, batch_stats, sample), batch_stats


def make_selection(
    config: Any, dataset: Dataset, schedule: optax.Schedule, lengths: tuple[int, int], sample: Any
) -> tuple[Selection, tuple[Arrays, Arrays]]:
    """Returns how the config selects examples, and where its small network starts.

    `lengths` are the steps of an epoch and of the run.
    """
    network, init = make_network(config, len(dataset.class_names), "proxy")
    proxy = start(network, init, config.seed, sample)
    groups = make_groups(config, proxy[0], *lengths)
    kept = round(config.batch_size * config.selection.keep_percent / 100)
    per_device(kept, "the number of selected examples")
    selection = Selection(
        network=network,
        make_tx=functools.partial(make_tx, config.optimizer.to_dict(), schedule, groups),
        frozen=frozenset(path for path, group in groups.items() if group == FROZEN),
        kept=kept,
        every=config.selection.every_steps,
    )
    return selection, proxy


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


def check_parts(config: Any) -> None:
    """Raises UserError for a wrong name or keyword of the model or an optimizer.

    It needs neither data nor parameters: decoding a dataset, or downloading it, takes minutes.
    """
    MODELS.check(plain(config.model))
    own = (group for _, group in plain(config.param_groups) if isinstance(group, dict))
    for spec in (plain(config.optimizer), *own):
        spec = {key: value for key, value in spec.items() if key != "schedule"}
        make_optimizer(spec, optax.constant_schedule)


def make_groups(
    config: Any, params: Arrays, steps_per_epoch: int, total_steps: int
) -> dict[str, Group]:
    """Returns the group of every parameter by `config.param_groups`."""
    entries = []
    for number, (pattern, group) in enumerate(plain(config.param_groups)):
        if isinstance(group, dict):
            spec = {"schedule": to_json(config.schedule)} | group
            schedule = make_schedule(spec.pop("schedule"), steps_per_epoch, total_steps)
            group = OwnOptimizer(number, spec, schedule)
        entries.append((pattern, group))
    return assign_groups(params, entries)


def penalized(config: Any, groups: Mapping[str, Group]) -> tuple[str, ...]:
    """Returns the paths of the trained parameters that the L2 penalty holds for."""
    if not config.l2.coefficient:
        return ()
    marks = assign_groups(groups, ((config.l2.pattern, 0.0),))
    return tuple(path for path in groups if marks[path] == 0.0 and groups[path] != FROZEN)


def make_hyperparams(config: Any, normalization: Normalization) -> Hyperparams:
    """Returns what the compiled steps take as arguments."""
    mean, divisor = normalization.arrays()
    optimizer = {key: value for key, value in config.optimizer.items() if _is_argument(key, value)}
    return Hyperparams(
        seed=np.uint32(config.seed),
        mean=mean,
        divisor=divisor,
        label_smoothing=np.float32(config.label_smoothing),
        l2=np.float32(config.l2.coefficient),
        optimizer={key: np.float32(value) for key, value in optimizer.items()},
    )


def identity(config: Any, dataset: Dataset, train_examples: int, total_steps: int) -> str:
    """Returns words that are equal for two configs only where the same compiled steps serve both.

    They have everything but what is an argument of the steps and what only the host looks at.
    """
    words = to_json(config)
    for key in _NOT_COMPILED:
        del words[key]
    words["l2"]["coefficient"] = bool(words["l2"]["coefficient"])
    words["optimizer"] = {
        key: None if _is_argument(key, value) else value
        for key, value in words["optimizer"].items()
    }
    classes, coarse = len(dataset.class_names), dataset.superclass_of
    facts = [dataset.train.images.shape[1:], classes, None if coarse is None else coarse.tolist()]
    return json.dumps([words, facts, train_examples, total_steps, ops.chosen()])


def _is_argument(key: str, value: Any) -> bool:
    return key in _ARGUMENTS and isinstance(value, int | float)


def check_size(network: Network, size: int) -> None:
    """Raises UserError where the network takes no images of this height and width."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    apply = functools.partial(network.apply, seeds=None, train=False)
    try:
        jax.eval_shape(apply, *network.abstract(), images)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        words = str(error).partition("\n")[0]
        raise UserError(
            f"config.progressive_sizes: the model takes no images of {size} x {size} ({words})"
        ) from error


def remarks_on(config: Any) -> list[str]:
    """Returns lines on what is allowed and likely not meant."""
    remarks = []
    plateau, patience = make_plateau(config.schedule), config.early_stopping.patience
    if plateau is not None and 0 < patience <= plateau.patience:
        remarks.append(
            f"early stopping (patience {patience}) comes before the learning rate is reduced "
            f"(patience {plateau.patience})"
        )
    if config.precision == "bfloat16" and jax.default_backend() == "cpu" and not ops.has_bfloat16():
        remarks.append(
            "this processor multiplies no bfloat16 numbers (AVX-512 BF16 or AMX would): they save "
            "hardly any time here; precision=float32 is as fast and exact"
        )
    return remarks


def build(config: Any, dataset: Dataset | None = None) -> Experiment:
    """Returns the experiment of a checked config, on `dataset` instead of its own where given.

    Raises UserError for whatever is wrong with names, keywords, data, devices or lengths.
    """
    for key in ("batch_size", "eval_batch_size"):
        per_device(config[key], key)
    size = config.data.image_size
    augment = make_augment(config.augment, (size, size, 3))
    remarks = remarks_on(config)
    check_parts(config)

    dataset = dataset or data.load(config.data)
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
    normalization = statistics(dataset.train.images, train, config.data.normalization)
    network, init = make_network(config, len(dataset.class_names))
    # Evenly over the split, in which the classes may come in order.
    some = train[np.linspace(0, len(train) - 1, min(len(train), _FITTED)).astype(int)]

    def sample() -> np.ndarray:
        return normalization(dataset.train.images[some].astype(np.float32))

    params, batch_stats = start(network, init, config.seed, sample)
    if config.init_from:
        params, batch_stats, done = initialize(config, params, batch_stats)
        remarks.append(done)
    groups = make_groups(config, params, steps_per_epoch, total_steps)
    hyperparams = make_hyperparams(config, normalization)
    selection, proxy = None, None
    if config.selection.keep_percent < 100:
        lengths = (steps_per_epoch, total_steps)
        selection, proxy = make_selection(config, dataset, schedule, lengths, sample)
    tx = functools.partial(
        make_tx,
        config.optimizer.to_dict(),
        schedule,
        groups,
        gradient_clip=config.gradient_clip,
        accumulation_steps=config.accumulation_steps,
    )
    # That nothing is left to train shows here, before anything is written.
    tx(hyperparams.optimizer)
    lookahead = config.lookahead
    recipe = Recipe(
        identity=identity(config, dataset, len(train), total_steps),
        network=network,
        make_tx=tx,
        augment=augment,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        frozen=frozenset(path for path, group in groups.items() if group == FROZEN),
        penalizes=bool(config.l2.coefficient),
        l2_paths=penalized(config, groups),
        ema_decay=config.ema_decay,
        lookahead=Lookahead(lookahead.every_steps, lookahead.decay, lookahead.power),
        selection=selection,
        superclass_of=dataset.superclass_of,
    )
    sizes = tuple(
        (round(percent / 100 * total_steps), size) for percent, size in config.progressive_sizes
    )
    for _, size in sizes:
        check_size(network, size)
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
        sizes=sizes,
        total_steps=total_steps,
        remarks=tuple(remarks),
    )
