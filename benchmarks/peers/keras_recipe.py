"""A seed recipe in Keras, for `benchmarks.time_to_accuracy`: a request on stdin, JSON on stdout.

python -m benchmarks.peers.keras_recipe prepare    writes the decoded dataset
python -m benchmarks.peers.keras_recipe train      trains on it and evaluates after every epoch
"""

import json
import sys
import time


def prepare(request: dict) -> None:
    """Writes the dataset, its normalization and the recipe's schedule, for a process with Keras."""
    import numpy as np

    from flaxcifar import config, data
    from flaxcifar.data.normalization import statistics
    from flaxcifar.optim.schedules import make_schedule

    settings = config.load(request["config"], request["changes"])
    dataset = data.load(settings.data)
    everything = np.arange(len(dataset.train))
    normalization = statistics(dataset.train.images, everything, settings.data.normalization)
    steps = len(everything) // settings.batch_size
    schedule = make_schedule(settings.schedule, steps, steps * settings.total_epochs)
    np.savez(
        request["dataset_file"],
        images=dataset.train.images,
        labels=dataset.train.labels,
        mean=np.float32(normalization.mean),
        std=np.float32(normalization.std),
        test_images=dataset.test.images,
        test_labels=dataset.test.labels,
        scales=np.array([float(schedule(n * steps)) for n in range(request["epochs"])]),
    )
    print(json.dumps(len(everything)))


def train(request: dict) -> None:
    """Trains by `fit` and prints seconds from the start and test accuracy after each epoch."""
    import importlib

    import keras
    import numpy as np

    from benchmarks.jobs import Job
    from benchmarks.peers import keras_peer, keras_pipelines, keras_steps
    from benchmarks.worker import use_threads
    from flaxcifar import config
    from flaxcifar.keras_weights import networks

    use_threads(request["threads"])
    settings = config.load(request["config"], request["changes"])
    backend = keras.backend.backend()
    images, labels, test_images, test_labels = keras_pipelines.read_dataset(request["dataset_file"])
    with np.load(request["dataset_file"]) as file:
        scales = file["scales"]

    def penalty(path: str):
        found = keras_peer.matches_l2(settings.l2, path)
        return keras.regularizers.L2(settings.l2.coefficient) if found else None

    spec = settings.model.to_dict()
    if spec["name"] == "crcv":
        from flaxcifar.models.crcv import SIZES

        spec["stages"] = SIZES[spec.pop("size", "slim")]
    classes = int(labels.max()) + 1
    model = networks.build(spec, images.shape[1:], classes, penalty)
    optimizer = settings.optimizer
    model.compile(
        optimizer=keras.optimizers.SGD(
            optimizer.learning_rate, optimizer.momentum, nesterov=optimizer.nesterov
        ),
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
        model.optimizer.learning_rate = optimizer.learning_rate * scale
        laps = keras_pipelines.Laps()
        model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=[laps])
        accuracy = None
        if steps == whole:
            _, accuracy = model.evaluate(test_images, test_labels, batch_size=512, verbose=0)
        elif len(laps.times) > 1:
            pace = (laps.times[-1] - laps.times[0]) / (len(laps.times) - 1)
            extra += (whole - steps) * pace
        epochs.append({"seconds": time.time() - request["began"] + extra, "accuracy": accuracy})
    versions = {n: importlib.import_module(n).__version__ for n in ("keras", backend, "numpy")}
    answer = {
        "epochs": epochs,
        "batch": settings.batch_size,
        "device": keras_steps.accelerator(backend) or "cpu",
        "versions": versions,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    {"prepare": prepare, "train": train}[sys.argv[1]](json.load(sys.stdin))
