"""The content of `summary.json`, and its reader."""

from pathlib import Path
from typing import Any, NotRequired, TypedDict

from flaxcifar.workdir import names
from flaxcifar.workdir.json_files import read_json


class Metrics(TypedDict):
    """Metrics of a split."""

    examples: int
    accuracy: float
    top5_accuracy: float
    loss: float
    coarse_accuracy: NotRequired[float]


class Dataset(TypedDict):
    """Facts about the dataset."""

    name: str
    train_examples: int
    fingerprint: str


class Parameters(TypedDict):
    """Numbers of parameters; see `models.summary.model_summary`."""

    trained: int
    frozen: int


class Timing(TypedDict):
    """How long the run took. Differs between runs of one config."""

    images_per_second: float
    compile_seconds: float
    total_seconds: float


class Model(TypedDict):
    """The model of the config."""

    name: str


class Config(TypedDict):
    """The keys of the config that readers of a summary use."""

    model: Model
    test_views: str


class Summary(TypedDict):
    """Results of a finished run; `training.results.summarize` describes them."""

    steps: int
    epochs: float
    stop_reason: str
    evaluated_step: int
    parameters: Parameters
    dataset: Dataset
    devices: list[str]
    convolution: str
    versions: dict[str, Any]
    validation: Metrics | None
    test: Metrics
    test_augmented: Metrics | None
    config: Config
    timing: Timing


def read_summary(workdir: Path) -> dict[str, Any] | None:
    """Returns the summary of a finished run, None without one.

    Raises UserError if the file is damaged.
    """
    return read_json(workdir / names.SUMMARY, Summary)
