"""Data: sources -> cache -> split and order -> pipelines -> augmentation."""

from typing import Any

from flaxcifar import console
from flaxcifar.data.cache import cached
from flaxcifar.data.dataset import Dataset
from flaxcifar.data.on_disk import OnDisk
from flaxcifar.data.pipelines import make_pipeline
from flaxcifar.data.source import Source
from flaxcifar.data.sources import Download, find_source

_NAMED = 5  # most names in a line


def find(config: Any) -> Source | Download:
    """Returns the dataset of `config` (the section `data`) undecoded; downloads nothing.

    Raises:
      UserError: the dataset is missing.
    """
    return find_source(config.name, config.dir, config.image_size)


def load(config: Any) -> Dataset:
    """Returns the dataset of `config` (the section `data`), decoded at the first call and cached.

    Names the classes with one training image or none.

    Raises:
      UserError: the dataset is missing, damaged or cannot be downloaded.
    """
    source = find(config).prepared()
    limit = make_pipeline(config.pipeline).memory_limit(config.memory_gb)
    dataset = cached(source, config.cache_dir, limit)
    for count, words in enumerate(("no training images", "only one training image")):
        if names := dataset.classes_with(count):
            listed = ", ".join(map(repr, names[:_NAMED]))
            more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
            console.say(f"dataset {config.name!r} has {words} of {listed}{more}")
    if isinstance(dataset.train.images, OnDisk):
        size = dataset.train.images.nbytes + dataset.test.images.nbytes
        console.say(
            f"the images of {config.name} take {size / 1e9:.3g} GB, more than the limit of "
            f"{limit / 1e9:.3g} GB (data.memory_gb): batches are read from disk"
        )
    return dataset
