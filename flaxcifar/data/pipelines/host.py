"""The host pipeline: tf.data gathers whole batches on the host and prefetches them."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from flaxcifar.data.dataset import Split
from flaxcifar.data.pipelines import Batch
from flaxcifar.data.tensorflow import import_tensorflow
from flaxcifar.devices.memory import available_memory

_PREFETCHED_BATCHES = 4


class HostPipeline:
    """Sends images and labels of every batch to the device."""

    needs_tensorflow = True

    def memory_limit(self, memory_gb: float) -> float:
        """Returns `memory_gb` in bytes; 0 means half of the available memory."""
        return memory_gb * 1e9 or available_memory() / 2

    def put(self, split: Split) -> dict[str, Any]:
        """Returns nothing: batches contain their examples."""
        return {}

    def batches(self, split: Split, index_batches: np.ndarray) -> Iterator[Batch]:
        """Yields "image" uint8 [B, H, W, 3], "label" int32 [B] and "index" int32 [B]."""
        yield from _pipeline(split, np.ascontiguousarray(index_batches)).as_numpy_iterator()

    def blank_batch(self, split: Split, batch_size: int) -> Batch:
        """Returns zeros in the shapes and dtypes of one of `batches`."""
        return {
            "image": np.broadcast_to(np.uint8(0), (batch_size, *split.images.shape[1:])),
            "label": np.broadcast_to(np.int32(0), batch_size),
            "index": np.broadcast_to(np.int32(0), batch_size),
        }


def _pipeline(split: Split, index_batches: np.ndarray) -> Any:
    """Returns the tf.data.Dataset of the batches; prefetching overlaps it with the device."""
    tf = import_tensorflow()

    # The images stay in NumPy: as a TensorFlow constant they would be copied.
    def take(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return split.images[index], split.labels[index]

    def gather(index):
        image, label = tf.numpy_function(take, [index], (tf.uint8, tf.int32), stateful=False)
        image = tf.ensure_shape(image, (index_batches.shape[1], *split.images.shape[1:]))
        label = tf.ensure_shape(label, index_batches.shape[1:])
        return {"image": image, "label": label, "index": index}

    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = min(4, os.cpu_count() or 1)
    options.threading.max_intra_op_parallelism = 1
    dataset = tf.data.Dataset.from_tensor_slices(index_batches)
    dataset = dataset.map(gather, num_parallel_calls=1, deterministic=True)
    return dataset.prefetch(_PREFETCHED_BATCHES).with_options(options)
