"""Data: sources -> cache -> split and order -> host or resident pipeline."""

import math
from typing import Any

from flaxcifar import console
from flaxcifar.data.cache import cached
from flaxcifar.data.dataset import Dataset
from flaxcifar.data.on_disk import OnDisk, memory
from flaxcifar.data.sources import find


def load(config: Any) -> Dataset:
    """Returns the dataset that `config` (`config.data`) names, decoded once and then cached.

    Raises UserError where it is missing, damaged or cannot be reached.
    """
    # The resident pipeline reads the training images once, in order.
    most = math.inf if config.pipeline == "resident" else config.memory_gb * 1e9 or memory() / 2
    dataset = cached(find(config.name, config.dir, config.image_size), config.cache_dir, most)
    if isinstance(dataset.train.images, OnDisk):
        size = dataset.train.images.nbytes + dataset.test.images.nbytes
        console.say(
            f"the images of {config.name} take {size / 1e9:.3g} GB, more than {most / 1e9:.3g}: "
            "every batch is read from disk when it is needed"
        )
    return dataset
