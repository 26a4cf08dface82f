"""The host pipeline: tf.data gathers the batches that the order names."""

import os
from collections.abc import Iterator

import numpy as np

from flaxcifar.data.dataset import Split
from flaxcifar.data.tensorflow import import_tensorflow

_PREFETCHED_BATCHES = 4


def train_batches(split: Split, index_batches: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batches of `index_batches`, int32 [steps, B], in that order.

    "image" uint8 [B, H, W, 3], "label" int32 [B], "index" int32 [B] (the row of `index_batches`).
    """
    yield from _pipeline(split, np.ascontiguousarray(index_batches)).as_numpy_iterator()


def _pipeline(split: Split, index_batches: np.ndarray):
    """Returns the tf.data.Dataset of the batches; prefetching overlaps it with the device."""
    tf = import_tensorflow()

    # The images stay where they are, in NumPy: as a TensorFlow constant they would be copied.
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
