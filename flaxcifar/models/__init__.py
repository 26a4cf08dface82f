"""Networks, one file per family. To add a model, add a file that registers a function."""

from flaxcifar.registry import Registry

MODELS = Registry("model", package=__name__)
