"""`arrays`: images and labels that a script gave to `flaxcifar.fit`, in the cache."""

import functools

from flaxcifar.data.dataset import Dataset
from flaxcifar.data.source import Empty, Source
from flaxcifar.data.sources import SOURCES
from flaxcifar.errors import UserError


@SOURCES.register
def arrays(directory: str, image_size: int) -> Source:
    """Arrays that `kept` has stored; `directory` is their fingerprint."""
    return Source("arrays", f"arrays {directory}", functools.partial(_lost, directory), files=())


def kept(fingerprint: str, dataset: Dataset) -> Source:
    """Returns the source of arrays in memory, which `arrays` finds again in the cache."""
    return Source("arrays", f"arrays {fingerprint}", lambda _: dataset, files=())


def _lost(fingerprint: str, _: Empty) -> Dataset:
    raise UserError(
        f"the arrays {fingerprint[:12]} are no longer in the cache: call flaxcifar.fit with them "
        "again, and the same workdir"
    )
