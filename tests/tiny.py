"""A network and a dataset so small that a whole run takes a second."""

import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxcifar.config import default_config
from flaxcifar.data.dataset import Dataset, Split
from flaxcifar.data.source import Source
from flaxcifar.data.sources import SOURCES
from flaxcifar.models import MODELS
from flaxcifar.models.layers import BatchNorm, Conv, Dropout

CLASSES = 4
_OPTIONS = "tiny.json"


class Stage(nnx.Module):
    def __init__(self, features_in, features, dtype, axis_name, rngs):
        self.conv = Conv(features_in, features, (3, 3), strides=2, dtype=dtype, rngs=rngs)
        self.norm = BatchNorm(features, dtype=dtype, axis_name=axis_name, rngs=rngs)
        self.dropout = Dropout(0.2, salt=features)

    def __call__(self, x):
        return self.dropout(nnx.relu(self.norm(self.conv(x))))


class Tiny(nnx.Module):
    def __init__(self, classes, dtype, axis_name, rngs):
        self.stage1 = Stage(3, 8, dtype, axis_name, rngs)
        self.stage2 = Stage(8, 16, dtype, axis_name, rngs)
        self.head = nnx.Linear(16, classes, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        x = self.stage2(self.stage1(x))
        return self.head(jnp.mean(x, axis=(1, 2))).astype(jnp.float32)


@MODELS.register
def tiny(num_classes, image_shape, dtype, axis_name, rngs):
    """Two strided convolutions."""
    return Tiny(num_classes, dtype, axis_name, rngs)


class OneStage(nnx.Module):
    def __init__(self, classes, dtype, axis_name, rngs):
        self.stage1 = Stage(3, 8, dtype, axis_name, rngs)
        self.head = nnx.Linear(8, classes, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.mean(self.stage1(x), axis=(1, 2))).astype(jnp.float32)


@MODELS.register
def one_stage(num_classes, image_shape, dtype, axis_name, rngs):
    """Half of `tiny`, which compiles in half of the time."""
    return OneStage(num_classes, dtype, axis_name, rngs)


def dataset(train=192, test=50, classes=CLASSES, seed=0):
    """Images 8 x 8 whose class is the colour of a square; coarse classes are pairs."""

    def split(count, seed):
        rng = np.random.default_rng(seed)
        labels = np.arange(count, dtype=np.int32) % classes
        images = rng.integers(0, 120, (count, 8, 8, 3), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2:6, 2:6, label % 3] += np.uint8(100 + 30 * (label // 3))
        return Split(images, labels)

    return Dataset(
        name="squares",
        train=split(train, seed),
        test=split(test, seed + 1),
        class_names=tuple(f"class {n}" for n in range(classes)),
        superclass_of=np.arange(classes, dtype=np.int32) // 2,
        superclass_names=tuple(f"group {n}" for n in range((classes + 1) // 2)),
        fingerprint=f"tiny-{train}-{classes}-{seed}",
    )


def write(folder: Path, **options: int) -> str:
    """Stores the arguments of `dataset` in `folder`; returns the `data.dir` that selects them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _OPTIONS).write_text(json.dumps(options))
    return str(folder)


def _source(directory: str, image_size: int) -> Source:
    """The data source "squares": `dataset()`, with the options that `write` left in `directory`."""
    files = (_OPTIONS,) if directory else ()

    def decode(_):
        options = json.loads(Path(directory, _OPTIONS).read_text()) if directory else {}
        return dataset(**options)

    return Source("squares", "squares", decode, Path(directory), files)


_source.__name__ = "squares"
SOURCES.register(_source)


def config(**changes):
    """A run of 2 epochs of 9 steps of 16 images; `changes` as {"dotted.key": value}."""
    c = default_config()
    c.model = dict(name="tiny")
    c.data.name = "squares"
    c.data.image_size = 8
    c.data.cache_dir = os.environ["FLAXCIFAR_TEST_CACHE"]
    c.data.validation_percent = 25.0
    c.augment = (dict(name="horizontal_flip"), dict(name="pad_crop", padding=1))
    c.batch_size = 16
    c.eval_batch_size = 32
    c.total_epochs = 2
    c.report = False
    # So that a run can be stopped after any step.
    c.steps_per_dispatch = 1
    c.optimizer = dict(name="sgd", learning_rate=0.05, momentum=0.9)
    for key, value in changes.items():
        *parents, leaf = key.split(".")
        section = c
        for parent in parents:
            section = section[parent]
        section[leaf] = value
    return c
