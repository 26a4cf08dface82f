"""Training and evaluation steps on abstract shapes, to be compiled without data or devices."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxcifar.data.dataset import Dataset, Split
from flaxcifar.devices import parallel
from flaxcifar.errors import UserError
from flaxcifar.tpu import estimate
from flaxcifar.training.dispatch import max_steps
from flaxcifar.training.experiment import Experiment
from flaxcifar.training.metrics import Metrics
from flaxcifar.training.step import create_state, eval_step, train_steps
from flaxcifar.training.test_time import Views

# (training examples, test examples, classes, superclasses)
_SHAPES = {
    "cifar10": (50_000, 10_000, 10, 0),
    "cifar100": (50_000, 10_000, 100, 20),
    "synthetic": (20_000, 4_000, 100, 20),
}


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A step that can be lowered and compiled.

    Attributes:
      kind: "train" or "eval".
      batch: global batch size.
      looped: whether the program runs several steps in a loop.
      flops: FLOPs of the model's layers for the whole batch.
      lower: lowers the step for the devices in use.
    """

    kind: str
    batch: int
    looped: bool
    flops: float
    lower: Callable[[], jax.stages.Lowered]


def blank(name: str, size: int, classes: int | None, examples: int | None) -> Dataset:
    """Returns a dataset of black images that take no memory.

    Args:
      name: the dataset.
      size: height and width of the images.
      classes: number of classes; None if the dataset is known.
      examples: number of training examples; None if the dataset is known.

    Raises:
      UserError: the dataset is not known, and `classes` or `examples` is None.
    """
    known = _SHAPES.get(name)
    if known is None:
        if classes is None or examples is None:
            raise UserError(f"dataset {name!r} is not read: pass its --classes and --examples")
        known = examples, examples, classes, 0
    train, test, labels, groups = known
    train, labels, groups = examples or train, classes or labels, 0 if classes else groups
    if min(train, labels) < 1:
        raise UserError("--classes and --examples must be at least 1")

    def split(count: int) -> Split:
        images = np.broadcast_to(np.uint8(0), (count, size, size, 3))
        return Split(images, np.arange(count, dtype=np.int32) % labels)

    return Dataset(
        name=name,
        train=split(train),
        test=split(test),
        class_names=tuple(map(str, range(labels))),
        superclass_of=np.arange(labels, dtype=np.int32) % groups if groups else None,
    )


def training(exp: Experiment) -> Lowered:
    """Returns the training steps of one dispatch, on images of their final size."""
    config, recipe, train = exp.config, exp.recipe, exp.dataset.train
    start = functools.partial(create_state, recipe, exp.hyperparams)
    state = jax.eval_shape(start, exp.params, exp.batch_stats, exp.proxy)
    steps, batch = max_steps(exp), config.batch_size

    one = exp.pipeline.put(Split(train.images[:1], train.labels[:1]))
    split = {key: _array((len(train), *x.shape[1:]), x.dtype) for key, x in one.items()}
    sent = exp.pipeline.blank_batch(train, batch)
    batches = {key: _array((steps, *x.shape), x.dtype) for key, x in sent.items()}
    step = functools.partial(train_steps, recipe)
    compiled = parallel.jitted(step, replicated=5, batch_axis=1, donate=(1,))
    arguments = (
        exp.hyperparams,
        state,
        Metrics.zero(recipe.metrics),
        split,
        np.int32(steps),
        batches,
    )
    flops = estimate.training_flops(recipe, train.images.shape[1:], batch)
    return Lowered("train", batch, steps > 1, flops, _lower(compiled, arguments))


def evaluation(exp: Experiment) -> Lowered:
    """Returns the evaluation of one batch of the test split."""
    config, recipe, shape = exp.config, exp.recipe, exp.dataset.test.images.shape[1:]
    superclass_of = exp.dataset.superclass_of
    coarse = None if superclass_of is None else tuple(superclass_of.tolist())
    views, batch = Views(config.test_views), config.eval_batch_size
    step = functools.partial(eval_step, recipe.network, coarse, recipe.metrics, views)
    compiled = parallel.jitted(step, replicated=3, batch_axis=0)
    names = ("single", "augmented")[: len(views.weights)]
    arguments = (
        recipe.network.abstract(),
        exp.normalization.arrays(),
        {name: Metrics.zero(recipe.metrics) for name in names},
        {
            "image": _array((batch, *shape), jnp.uint8),
            "label": _array((batch,), jnp.int32),
            "mask": _array((batch,), jnp.float32),
        },
    )
    flops = estimate.forward_flops(recipe, shape, batch) * len(views.weights)
    return Lowered("eval", batch, False, flops, _lower(compiled, arguments))


def _lower(compiled: Any, arguments: Any) -> Callable[[], jax.stages.Lowered]:
    shapes = jax.eval_shape(lambda tree: tree, arguments)
    return lambda: compiled.lower(*shapes)


def _array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)
