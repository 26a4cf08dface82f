"""Where datasets come from: a file here that registers a function is all a new source needs.

The function takes `(directory: str, image_size: int)` and returns a `Source`, which is found but
not decoded yet. Any name that no file registers is taken for one of TensorFlow Datasets.
"""

from flaxcifar.data.source import Source
from flaxcifar.data.sources.tfds import tfds_source
from flaxcifar.registry import Registry

SOURCES = Registry("data source", package=__name__)


def find_source(name: str, directory: str, image_size: int) -> Source:
    """Returns the source called `name`, in `directory` or ("") wherever it usually is."""
    if name in SOURCES:
        return SOURCES.get(name)(directory, image_size)
    return tfds_source(name, directory, image_size)
