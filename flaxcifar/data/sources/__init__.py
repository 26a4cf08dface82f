"""Sources of datasets, one file each. A new file that registers a function needs no other edit.

The function takes `(directory: str, image_size: int)` and returns a `Source`. Names that are not
registered are those of TensorFlow Datasets.
"""

from flaxcifar.data.source import Source
from flaxcifar.data.sources.tfds import Download, tfds_source
from flaxcifar.registry import Registry

SOURCES = Registry("data source", package=__name__)


def find_source(name: str, directory: str, image_size: int) -> Source | Download:
    """Returns the dataset called `name` in `directory`; "" is the source's default place.

    Downloads nothing.
    """
    if name in SOURCES:
        return SOURCES.get(name)(directory, image_size)
    return tfds_source(name, directory, image_size)
