"""Jobs of frameworks in a comparison, and their configs. Imports no framework."""

import dataclasses
import importlib.util
import re
from pathlib import Path
from typing import Any

from flaxcifar import config
from flaxcifar.errors import UserError

ROOT = Path(__file__).parent.parent

# For each model: its config, changes to it, and its modules in order, without the head.
MODELS = {
    "vgg16": ("vgg.py", (), (*(f"stage{n}" for n in range(1, 6)), "dense")),
    "resnet": ("resnet.py", (), ("stem", *(f"stage{n}" for n in range(1, 5)))),
    "crcv": ("crcv.py", (), tuple(f"stage{n}" for n in range(1, 5))),
    "crcv-heavy": ("crcv.py", ("model.size=heavy",), tuple(f"stage{n}" for n in range(1, 5))),
    "speednet": ("speed94.py", (), ("whiten", *(f"stage{n}" for n in range(1, 4)))),
}

# Packages that each framework needs.
REQUIREMENTS = {
    "flaxcifar": ("jax", "flax"),
    "keras-tensorflow": ("keras", "tensorflow"),
    "keras-jax": ("keras", "jax"),
    "keras-torch": ("keras", "torch"),
    "torch": ("torch",),
    "torch-compile": ("torch",),
}


@dataclasses.dataclass(frozen=True)
class Job:
    """The part of one framework in a comparison, as sent to its worker process.

    Attributes:
      framework: a key of REQUIREMENTS. flaxcifar may be followed by a convolution backend, and by
        "scan" for 4 steps per dispatch: "flaxcifar-onednn", "flaxcifar-jax-scan".
      model: a key of MODELS.
      precision: "float32" or "bfloat16".
      batch: batch size.
      threads: number of threads.
      dataset: `data.name`.
      data_dir: `data.dir`.
      convolution: backend of flaxcifar if its name has none.
      frozen: pattern of the frozen modules; "" for none.
      arrays: the .npz file of `peers.reference`: initial weights and a batch.
    """

    framework: str
    model: str = "vgg16"
    precision: str = "float32"
    batch: int = 128
    threads: int = 1
    dataset: str = "synthetic"
    data_dir: str = ""
    convolution: str = "auto"
    frozen: str = ""
    arrays: str = ""

    @property
    def family(self) -> str:
        """The module that implements the framework: flaxcifar, keras or torch."""
        return self.framework.split("-")[0]

    @property
    def backend(self) -> str:
        """flaxcifar's convolution backend; "auto" for other frameworks."""
        if self.family != "flaxcifar":
            return "auto"
        backends = [word for word in self.framework.split("-")[1:] if word != "scan"]
        return backends[0] if backends else self.convolution

    @property
    def steps_per_dispatch(self) -> int:
        """Training steps per call."""
        return 4 if self.framework.endswith("-scan") else 1

    @property
    def dataset_file(self) -> Path:
        """The .npz file of the dataset, next to `arrays`."""
        return Path(self.arrays).with_name("dataset.npz")


def missing(framework: str) -> str:
    """Returns a package that a framework needs and that is not installed, or "".

    Raises:
      UserError: the framework is unknown.
    """
    name = "flaxcifar" if framework.split("-")[0] == "flaxcifar" else framework
    if name not in REQUIREMENTS:
        raise UserError(f"unknown framework {framework!r} (there are: {', '.join(REQUIREMENTS)})")
    absent = (name for name in REQUIREMENTS[name] if importlib.util.find_spec(name) is None)
    return next(absent, "")


def matches(pattern: str, path: str) -> bool:
    """Returns whether a pattern matches a path or one of its parents, as `param_groups` does."""
    parts = path.split("/")
    return any(re.fullmatch(pattern, "/".join(parts[:n])) for n in range(1, len(parts) + 1))


def recipe(job: Job, *changes: str) -> Any:
    """Returns the config of a job: the model's recipe without augmentation and averaging.

    The learning rate is small and constant, so that the loss stays finite over a thousand steps on
    one batch. It does not affect the cost of a step.

    Args:
      job: the job.
      *changes: further changes as "key=value".
    """
    if job.model not in MODELS:
        raise UserError(f"unknown model {job.model!r} (there are: {', '.join(MODELS)})")
    name, own, _ = MODELS[job.model]
    settings = [
        *own,
        f"precision={job.precision}",
        f"batch_size={job.batch}",
        f"data.name={job.dataset}",
        f"data.dir={job.data_dir}",
        "data.validation_percent=0",
        "early_stopping.patience=0",
        "ema_decay=0.0",
        "augment=()",
        "progressive_sizes=()",
        "optimizer.learning_rate=0.001",
        "schedule.name=constant",
    ]
    if job.backend != "auto":
        settings.append(f"ops.convolution={job.backend}")
    if job.frozen:
        settings.append(f"param_groups=(({job.frozen!r}, 'frozen'),)")
    flags = [f"--config.{setting}" for setting in (*settings, *changes)]
    return config.load(ROOT / "configs" / name, flags)


def recipe_without_dropout(job: Job) -> Any:
    """Returns the config of a job without dropout, for a deterministic loss."""
    return recipe(job, *(() if job.model == "speednet" else ("model.dropout=0.0",)))


def augmentation(job: Job) -> dict[str, float]:
    """Returns the arguments of the recipe's `affine` augmentation, which precedes flips."""
    name = MODELS[job.model][0]
    affine, flip = config.load(ROOT / "configs" / name).augment
    assert affine["name"] == "affine" and flip["name"] == "horizontal_flip"
    return {key: value for key, value in affine.items() if key != "name"}
