"""Keras' training loop, `fit`, with its input pipelines and ways to augment images."""

import time

import keras
import numpy as np

from benchmarks.jobs import Job, augmentation


class Laps(keras.callbacks.Callback):
    """Records the time after every step."""

    def __init__(self):
        super().__init__()
        self.times = []

    def on_train_batch_end(self, batch, logs=None):
        self.times.append(time.perf_counter())


def read_dataset(path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns normalised float32 images and labels, of the training and of the test split."""
    with np.load(path) as file:
        arrays = dict(file)
    for key in ("images", "test_images"):
        images = arrays[key].astype(np.float32)
        images -= arrays["mean"]
        images /= arrays["std"] + np.float32(1e-7)
        arrays[key] = images
    return arrays["images"], arrays["labels"], arrays["test_images"], arrays["test_labels"]


def fit(job: Job, model: keras.Model, pipeline: str, steps: int) -> float:
    """Returns the images/s of `steps` steps of `model.fit`, excluding the first one."""
    images, labels, _, _ = read_dataset(job.dataset_file)
    laps = Laps()
    data = inputs(job, pipeline, images, labels)
    model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=[laps])
    times = laps.times
    return (len(times) - 1) * job.batch / (times[-1] - times[0])


def inputs(job: Job, pipeline: str, images: np.ndarray, labels: np.ndarray):
    """Returns shuffled batches for `fit`.

    Args:
      job: the job.
      pipeline: "tf.data" (without augmentation), "layers" (preprocessing layers in tf.data) or
        "generator" (ImageDataGenerator).
      images: normalised images, float32 [N, H, W, C].
      labels: int32 [N].
    """
    if pipeline == "generator":
        return _generator(job).flow(images, labels, batch_size=job.batch)
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    dataset = dataset.shuffle(len(labels)).repeat().batch(job.batch, drop_remainder=True)
    if pipeline == "layers":
        augmenting = augmenting_layers(job)

        def augment(images, labels):
            for layer in augmenting:
                images = layer(images, training=True)
            return images, labels

        dataset = dataset.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _generator(job: Job):
    # Keras 3 keeps it for old programs. Not all releases export it.
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    return ImageDataGenerator(**augmentation(job), horizontal_flip=True, fill_mode="nearest")


def augmenting_layers(job: Job) -> list[keras.layers.Layer]:
    """Returns the recipe's rotation, shifts and flips as preprocessing layers.

    Separate layers run in tf.data on every backend, unlike a Sequential.
    """
    keywords = augmentation(job)
    shifts = (keywords["height_shift_range"], keywords["width_shift_range"])
    turn = keywords["rotation_range"] / 360
    # float32 also if the policy is bfloat16.
    options = dict(fill_mode="nearest", dtype="float32")
    return [
        keras.layers.RandomRotation(turn, **options),
        keras.layers.RandomTranslation(*shifts, **options),
        keras.layers.RandomFlip("horizontal", dtype="float32"),
    ]
