"""What a framework is asked to do; nothing here imports a framework."""

import dataclasses
import importlib.util
import re
from pathlib import Path
from typing import Any

from flaxcifar import config
from flaxcifar.errors import UserError

ROOT = Path(__file__).parent.parent

# The config of each model, what is changed in it, and its modules from the first to the last but
# the head.
MODELS = {
    "vgg16": ("vgg.py", (), (*(f"stage{n}" for n in range(1, 6)), "dense")),
    "resnet": ("resnet.py", (), ("stem", *(f"stage{n}" for n in range(1, 5)))),
    "crcv": ("crcv.py", (), tuple(f"stage{n}" for n in range(1, 5))),
    "crcv-heavy": ("crcv.py", ("model.size=heavy",), tuple(f"stage{n}" for n in range(1, 5))),
    "speednet": ("speed94.py", (), ("whiten", *(f"stage{n}" for n in range(1, 4)))),
}

# What has to be importable for each framework.
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
    """One framework's part of a comparison, as a worker process gets it.

    Attributes:
      framework: a key of REQUIREMENTS; flaxcifar's name may go on with the path of its convolutions
        and with "scan", which runs 4 steps a dispatch: "flaxcifar-onednn", "flaxcifar-jax-scan".
      frozen: a pattern of the modules that do not train; "" for none.
      convolution: of flaxcifar where its name says none; "auto" leaves it to flaxcifar.
      arrays: the .npz that `peers.reference` has written: weights, batch and first loss.
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
        """The part of the framework's name that chooses the code: flaxcifar, keras or torch."""
        return self.framework.split("-")[0]

    @property
    def path(self) -> str:
        """The path of flaxcifar's convolutions; "auto" for the other frameworks."""
        if self.family != "flaxcifar":
            return "auto"
        paths = [word for word in self.framework.split("-")[1:] if word != "scan"]
        return paths[0] if paths else self.convolution

    @property
    def steps_per_dispatch(self) -> int:
        """The steps that one call runs."""
        return 4 if self.framework.endswith("-scan") else 1

    @property
    def dataset_file(self) -> Path:
        """The .npz with the training and test splits, beside `arrays`."""
        return Path(self.arrays).with_name("dataset.npz")


def missing(framework: str) -> str:
    """Returns the package that a framework lacks here, "" where it has all.

    Raises UserError for a framework that does not exist.
    """
    name = "flaxcifar" if framework.split("-")[0] == "flaxcifar" else framework
    if name not in REQUIREMENTS:
        raise UserError(f"unknown framework {framework!r} (there are: {', '.join(REQUIREMENTS)})")
    absent = (name for name in REQUIREMENTS[name] if importlib.util.find_spec(name) is None)
    return next(absent, "")


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern names a path, or a module above it, as in flaxcifar's `param_groups`."""
    parts = path.split("/")
    return any(re.fullmatch(pattern, "/".join(parts[:n])) for n in range(1, len(parts) + 1))


def recipe(job: Job, *changes: str) -> Any:
    """Returns the config of the job: the model's recipe without augmentation and averaging.

    The learning rate is small and constant, so that a thousand steps on one batch stay finite; it
    changes nothing about a step's cost. `changes` are further "key=value".
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
    if job.path != "auto":
        settings.append(f"ops.convolution={job.path}")
    if job.frozen:
        settings.append(f"param_groups=(({job.frozen!r}, 'frozen'),)")
    flags = [f"--config.{setting}" for setting in (*settings, *changes)]
    return config.load(ROOT / "configs" / name, flags)


def recipe_without_dropout(job: Job) -> Any:
    """Returns the config of the job for a loss that does not depend on random numbers."""
    return recipe(job, *(() if job.model == "speednet" else ("model.dropout=0.0",)))


def augmentation(job: Job) -> dict[str, float]:
    """Returns the keywords of the recipe's `affine` augmentation; it is followed by flips."""
    name = MODELS[job.model][0]
    affine, flip = config.load(ROOT / "configs" / name).augment
    assert affine["name"] == "affine" and flip["name"] == "horizontal_flip"
    return {key: value for key, value in affine.items() if key != "name"}
