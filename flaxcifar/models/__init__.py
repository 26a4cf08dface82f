"""Networks: one file a family. A new file that registers a function is all a new model needs."""

from flaxcifar.registry import Registry

MODELS = Registry("model", package=__name__)
