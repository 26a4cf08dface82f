"""Data: sources -> cache -> split and order -> host or resident pipeline."""

from typing import Any

from flaxcifar.data.cache import cached
from flaxcifar.data.dataset import Dataset
from flaxcifar.data.sources import find


def load(config: Any) -> Dataset:
    """Returns the dataset that `config` (`config.data`) names, decoded once and then cached.

    Raises UserError where it is missing, damaged or cannot be reached.
    """
    return cached(find(config.name, config.dir, config.image_size), config.cache_dir)
