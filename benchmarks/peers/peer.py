"""Interface between workers and frameworks."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jobs import Job


@dataclasses.dataclass(frozen=True)
class Peer:
    """A network on its device, with its optimizer and one batch.

    Attributes:
      parameters: number of parameters and batch statistics.
      device: "cpu" or the name of the accelerator.
      packages: packages whose versions are recorded.
      first_loss: returns the loss of the batch with L2, in training mode without dropout.
      train: runs a number of training steps on the batch, a multiple of `steps_per_call`, waits for
        the last one and returns its loss.
      infer: computes the logits of the batch a number of times and waits for the last ones.
      device_memory: returns the peak memory of an accelerator in bytes, or None if unknown.
      steps_per_call: training steps per call.
      fit: runs a training loop over the dataset and returns its images/s.
      convolution: flaxcifar's convolution backend.
      training_flops: FLOPs of a training step for one image, counted by flaxcifar.
      matrix_rate: returns the FLOP/s of large matrix products, measured by flaxcifar.
    """

    parameters: int
    device: str
    packages: tuple[str, ...]
    first_loss: Callable[[], float]
    train: Callable[[int], float]
    infer: Callable[[int], None]
    device_memory: Callable[[], int | None]
    steps_per_call: int = 1
    fit: Callable[..., float] | None = None
    convolution: str | None = None
    training_flops: float | None = None
    matrix_rate: Callable[[], float] | None = None


def read_arrays(job: Job) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Returns the initial weights by path, images float32 [B, H, W, C], and labels int32 [B]."""
    with np.load(job.arrays) as file:
        arrays = dict(file)
    images, labels = arrays.pop("batch/image"), arrays.pop("batch/label")
    weights = {path: value for path, value in arrays.items() if not path.startswith("batch/")}
    return weights, images, labels


def write_dataset(path: Path, dataset: Any, normalization: Any, **more: Any) -> None:
    """Writes uint8 images, labels and normalization, for frameworks that read them there."""
    np.savez(
        path,
        images=dataset.train.images,
        labels=dataset.train.labels,
        mean=np.float32(normalization.mean),
        std=np.float32(normalization.std),
        test_images=dataset.test.images,
        test_labels=dataset.test.labels,
        **more,
    )


def network_spec(settings: Any, weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the model of a config, with `size` replaced by `stages`.

    `stages` are the filters of each stage's convolutions, taken from the weights.
    """
    spec = settings.model.to_dict()
    if "size" in spec:
        del spec["size"]
        stages: dict[str, dict[str, int]] = {}
        for path, value in weights.items():
            stage, layer, *_ = path.split("/")
            if path.endswith("kernel") and value.ndim == 4:
                stages.setdefault(stage, {})[layer] = value.shape[-1]
        spec["stages"] = [[convs[n] for n in sorted(convs)] for _, convs in sorted(stages.items())]
    return spec
