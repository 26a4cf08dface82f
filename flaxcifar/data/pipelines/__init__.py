"""Input pipelines: how the examples of a batch reach the devices.

All pipelines yield the same batches in the same order. They differ in where examples are gathered.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from flaxcifar.data.dataset import Split

Batch = dict[str, np.ndarray]


class Pipeline(Protocol):
    """An input pipeline.

    Attributes:
      needs_tensorflow: whether `batches` needs TensorFlow.
    """

    needs_tensorflow: bool

    def memory_limit(self, memory_gb: float) -> float:
        """Returns the bytes of images above which a dataset is read from disk batch by batch.

        Args:
          memory_gb: the limit of the config, `data.memory_gb`.
        """

    def put(self, split: Split) -> dict[str, Any]:
        """Returns the arrays that stay on the device during the run; empty if there are none."""

    def batches(self, split: Split, index_batches: np.ndarray) -> Iterator[Batch]:
        """Yields the part of each batch that the host sends to the device.

        Args:
          index_batches: int32 [steps, B], positions of the examples in `split`.
        """

    def blank_batch(self, split: Split, batch_size: int) -> Batch:
        """Returns zeros in the shapes and dtypes of one of `batches`; they take no memory."""


def make_pipeline(name: str) -> Pipeline:
    """Returns the pipeline called `name`, a value of `data.pipeline`."""
    # Imported here, as data is decoded without JAX.
    if name == "resident":
        from flaxcifar.data.pipelines.resident import ResidentPipeline

        return ResidentPipeline()
    from flaxcifar.data.pipelines.host import HostPipeline

    return HostPipeline()
