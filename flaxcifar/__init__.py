"""A trainer for small-image classifiers in JAX and Flax.

import flaxcifar
config = flaxcifar.load_config("quickstart", total_epochs=5)
result = flaxcifar.train(config, workdir="runs/first")
labels = result.model.predict(["cat.png"])
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxcifar.api import Result, fit, load, load_config, train
    from flaxcifar.data.augment import AUGMENTATIONS
    from flaxcifar.data.sources import SOURCES
    from flaxcifar.errors import RunError, UserError
    from flaxcifar.inference.trained import Trained
    from flaxcifar.models import MODELS
    from flaxcifar.optim import OPTIMIZERS, SCHEDULES
    from flaxcifar.training.callbacks import Callback
    from flaxcifar.training.metrics import METRICS

__version__ = "0.2.0"

# Imported when it is first used, because JAX takes a second.
_HOMES = {
    "AUGMENTATIONS": "data.augment",
    "Callback": "training.callbacks",
    "METRICS": "training.metrics",
    "MODELS": "models",
    "OPTIMIZERS": "optim",
    "Result": "api",
    "RunError": "errors",
    "SCHEDULES": "optim",
    "SOURCES": "data.sources",
    "Trained": "inference.trained",
    "UserError": "errors",
    "fit": "api",
    "load": "api",
    "load_config": "api",
    "train": "api",
}

__all__ = [
    "AUGMENTATIONS",
    "METRICS",
    "MODELS",
    "OPTIMIZERS",
    "SCHEDULES",
    "SOURCES",
    "Callback",
    "Result",
    "RunError",
    "Trained",
    "UserError",
    "fit",
    "load",
    "load_config",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flaxcifar' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"flaxcifar.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | _HOMES.keys())
