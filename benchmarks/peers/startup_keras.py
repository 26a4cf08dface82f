"""One run of Keras for `benchmarks.startup`. Reads a request from stdin, prints JSON."""

import tempfile
import time
from typing import Any

from benchmarks.jobs import Job
from benchmarks.worker import answer, use_threads, versions


def run(job: dict[str, Any], steps: int, cache_dir: str, began: float) -> dict[str, Any]:
    """Loads, trains, evaluates and saves; returns the seconds from `began` to each moment."""
    job = Job(**job)
    use_threads(job.threads)

    import keras

    from benchmarks.peers import keras_peer, keras_pipelines, keras_steps
    from benchmarks.peers.peer import read_arrays

    moments = {"imported": time.time()}
    backend = keras.backend.backend()
    if job.precision == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    weights, sample, _ = read_arrays(job)
    on_gpu = keras_steps.accelerator(backend) is not None
    model = keras_peer.compiled(job, weights, sample.shape[1:], on_gpu)
    images, labels, test_images, test_labels = keras_pipelines.read_dataset(job.dataset_file)
    steps = steps or len(images) // job.batch
    laps = keras_pipelines.Laps()
    data = keras_pipelines.inputs(job, "layers", images, labels)
    model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=[laps])
    moments["first_step"] = time.time() - time.perf_counter() + laps.times[0]
    model.evaluate(test_images, test_labels, batch_size=512, verbose=0)
    with tempfile.TemporaryDirectory() as directory:
        model.save_weights(f"{directory}/model.weights.h5")
    seconds = {moment: when - began for moment, when in moments.items()}
    return seconds | {
        "steps": steps,
        "device": keras_steps.accelerator(backend) or "cpu",
        "convolution": None,
        "versions": versions(("keras", backend)),
    }


if __name__ == "__main__":
    answer(run)
