"""Networks, one file per family. To add a model, add a file that registers a function."""

from collections.abc import Sequence
from typing import Annotated

from flaxcifar.registry import Registry
from flaxcifar.rules import NOT_EMPTY, between

MODELS = Registry("model", package=__name__)

# Keywords of several models: filters of a layer, and of the layers or stages of a network.
Width = Annotated[int, between(1, 2**16)]
Widths = Annotated[Sequence[Width], NOT_EMPTY]
