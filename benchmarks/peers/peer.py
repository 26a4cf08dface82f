"""What a worker can do with any framework."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.jobs import Job


@dataclasses.dataclass(frozen=True)
class Peer:
    """A network on its device, with its optimizer and one batch.

    Attributes:
      parameters: numbers in its parameters and statistics.
      device: what it runs on, "cpu" or a name.
      packages: those whose versions matter.
      first_loss: returns the loss of the batch, L2 included, in training mode but without dropout.
      train: runs that many training steps on the batch, a multiple of `steps_per_call`, waits for
        the last and returns its loss.
      infer: computes the batch's logits that many times and waits for the last.
      device_memory: returns the peak on an accelerator in bytes, None where it is not known.
      fit: runs a training loop over the dataset; see the frameworks' own.
      convolution: flaxcifar's path.
      training_flops: operations of a training step for one image; flaxcifar counts them for all.
      matrix_rate: returns the FLOP/s of large matrix products; flaxcifar's holds for all.
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


def network_spec(settings: Any, weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the config's model; a `size` is replaced by `stages`, what it stands for.

    For each stage they are the filters of its convolutions, as the weights have them.
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
