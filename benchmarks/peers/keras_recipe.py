"""A recipe in Keras for `benchmarks.time_to_accuracy`. Reads a request from stdin, prints JSON.

python -m benchmarks.peers.keras_recipe prepare    writes the decoded dataset
python -m benchmarks.peers.keras_recipe train      trains on it and evaluates after every epoch
"""

import sys
import time
from typing import Any

from benchmarks.worker import answer, use_threads, versions


def prepare(**request: Any) -> int:
    """Writes the dataset and the learning rates by epoch; returns the number of examples."""
    import numpy as np

    from benchmarks.peers.peer import write_dataset
    from flaxcifar import config, data
    from flaxcifar.data.normalization import statistics
    from flaxcifar.optim.schedules import make_schedule

    settings = config.load(request["config"], request["changes"])
    dataset = data.load(settings.data)
    everything = np.arange(len(dataset.train))
    normalization = statistics(dataset.train.images, everything, settings.data.normalization)
    steps = len(everything) // settings.batch_size
    schedule = make_schedule(settings.schedule, steps, steps * settings.total_epochs)
    scales = np.array([float(schedule(n * steps)) for n in range(request["epochs"])])
    write_dataset(request["dataset_file"], dataset, normalization, scales=scales)
    return len(everything)


def train(**request: Any) -> dict[str, Any]:
    """Trains with `fit`; returns seconds from the start and test accuracy after each epoch."""
    import keras
    import numpy as np

    from benchmarks.jobs import Job
    from benchmarks.peers import keras_peer, keras_pipelines, keras_steps
    from flaxcifar import config

    use_threads(request["threads"])
    settings = config.load(request["config"], request["changes"])
    backend = keras.backend.backend()
    images, labels, test_images, test_labels = keras_pipelines.read_dataset(request["dataset_file"])
    with np.load(request["dataset_file"]) as file:
        scales = file["scales"]

    spec = settings.model.to_dict()
    if spec["name"] == "crcv":
        from flaxcifar.models.crcv import SIZES

        spec["stages"] = SIZES[spec.pop("size", "slim")]
    classes = int(labels.max()) + 1
    model = keras_peer.penalized(settings, spec, images.shape[1:], classes)
    model.compile(
        optimizer=keras_peer.make_optimizer(settings.optimizer),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=backend == "jax",
    )
    model_name = "vgg16" if spec["name"] == "vgg16" else "crcv"
    job = Job(f"keras-{backend}", model=model_name, batch=settings.batch_size)
    data = keras_pipelines.inputs(job, "layers", images, labels)
    whole = len(images) // settings.batch_size
    steps = request["steps"] or whole
    epochs, extra = [], 0.0
    for scale in scales:
        model.optimizer.learning_rate = settings.optimizer.learning_rate * scale
        laps = keras_pipelines.Laps()
        model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=[laps])
        accuracy = None
        if steps == whole:
            _, accuracy = model.evaluate(test_images, test_labels, batch_size=512, verbose=0)
        elif len(laps.times) > 1:
            pace = (laps.times[-1] - laps.times[0]) / (len(laps.times) - 1)
            extra += (whole - steps) * pace
        epochs.append({"seconds": time.time() - request["began"] + extra, "accuracy": accuracy})
    return {
        "epochs": epochs,
        "batch": settings.batch_size,
        "device": keras_steps.accelerator(backend) or "cpu",
        "versions": versions(("keras", backend, "numpy")),
    }


if __name__ == "__main__":
    answer({"prepare": prepare, "train": train}[sys.argv[1]])
