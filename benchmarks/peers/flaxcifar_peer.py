"""flaxcifar: its training step, called as in its training loop."""

import dataclasses
import functools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.jobs import MODELS, ROOT, Job, recipe, recipe_without_dropout
from benchmarks.peers.peer import Peer, read_arrays, write_dataset
from benchmarks.worker import versions
from flaxcifar import api, config, ops
from flaxcifar.devices import parallel
from flaxcifar.tpu.estimate import training_flops
from flaxcifar.training.experiment import Experiment, build
from flaxcifar.training.metrics import Metrics, cross_entropy
from flaxcifar.training.step import Arrays, create_state, train_steps

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def make(job: Job) -> Peer:
    """Returns flaxcifar's training step through `pmap` on one device."""
    devices = jax.devices()[:1]
    experiment = build(recipe(job))
    weights, images, labels = read_arrays(job)
    params = {path: jnp.asarray(weights[path]) for path in experiment.params}
    stats = {path: jnp.asarray(weights[path]) for path in experiment.batch_stats}
    # The images are normalised already, because that is not part of a bare step.
    hyperparams = experiment.hyperparams.replace(mean=np.zeros(1), divisor=np.ones(1))
    steps = job.steps_per_dispatch
    index = np.arange(len(labels), dtype=np.int32)
    batch = {"image": images, "label": labels, "index": index}
    if devices[0].platform == "cpu":
        # Host and device share memory, so splitting a JAX array would only add a copy.
        batches = {key: np.stack([value] * steps) for key, value in batch.items()}
    else:
        batches = {key: jnp.stack([value] * steps) for key, value in batch.items()}
    step = functools.partial(train_steps, experiment.recipe)
    compiled = parallel.pmap(step, replicated=5, batch_axis=1, donate=(1,), devices=devices)
    state = create_state(experiment.recipe, hyperparams, params, stats)
    state, hyperparams = parallel.replicate((state, hyperparams), devices)
    zero = parallel.replicate(Metrics.zero(), devices)

    def train(count: int) -> float:
        nonlocal state
        metrics = zero
        for _ in range(count // steps):
            arguments = (hyperparams, state, zero, {}, np.int32(steps), batches)
            before, (state, metrics) = metrics, compiled(*arguments)
            jax.block_until_ready(before)
        metrics = jax.device_get(metrics)
        return float(metrics.loss / metrics.count)

    apply = functools.partial(experiment.recipe.network.apply, seeds=None, train=False)
    logits = jax.jit(lambda params, stats, x: apply(params, stats, x)[0])
    images_on_device = jax.device_put(images, devices[0])

    def infer(count: int) -> None:
        for _ in range(count):
            result = logits(state.params, state.batch_stats, images_on_device)
        result.block_until_ready()

    return Peer(
        parameters=sum(x.size for x in (*params.values(), *stats.values())),
        device=devices[0].device_kind,
        packages=PACKAGES,
        convolution=experiment.recipe.network.convolution,
        first_loss=functools.partial(first_loss, job),
        train=train,
        infer=infer,
        device_memory=lambda: (devices[0].memory_stats() or {}).get("peak_bytes_in_use"),
        steps_per_call=steps,
        fit=functools.partial(fit, job),
        training_flops=training_flops(experiment.recipe, images.shape[1:], 1),
        matrix_rate=functools.partial(matrix_rate, job.precision, devices[0]),
    )


def described() -> dict[str, Any]:
    """Returns what the rows of a process record: device, convolution backend and versions."""
    return {
        "device": jax.devices()[0].device_kind,
        "convolution": ops.resolve(),
        "versions": versions(PACKAGES),
    }


def matrix_rate(precision: str, device: jax.Device, size: int = 8192) -> float:
    """Returns the FLOP/s of products of two random square matrices, the best of 10 x 10."""
    key = jax.device_put(jax.random.key(0), device)
    a, b = jax.random.normal(key, (2, size, size), precision)
    # The scale keeps the numbers finite.
    product = jax.jit(lambda a, b: (a @ b) * size**-0.5)
    product(a, b).block_until_ready()
    seconds = []
    for _ in range(10):
        began, result = time.perf_counter(), a
        for _ in range(10):
            result = product(result, b)
        result.block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 10 * 2 * size**3 / min(seconds)


def first_loss(job: Job) -> float:
    """Returns the loss before the first step, without dropout."""
    return loss(build(recipe_without_dropout(job)), *read_arrays(job))


def loss(experiment: Experiment, weights: Arrays, images: np.ndarray, labels: np.ndarray) -> float:
    """Returns the loss of a batch in training mode, L2 included, on one device."""
    recipe = experiment.recipe

    def step(weights: Arrays, batch: Arrays) -> jax.Array:
        params = {path: weights[path] for path in experiment.params}
        stats = {path: weights[path] for path in experiment.batch_stats}
        seeds = jnp.zeros(labels.shape, jnp.uint32)
        logits, _ = recipe.network.apply(params, stats, batch["image"], seeds, train=True)
        squares = sum(jnp.sum(jnp.square(params[path])) for path in recipe.l2_paths)
        return jnp.mean(cross_entropy(logits, batch["label"])) + experiment.hyperparams.l2 * squares

    run = parallel.pmap(step, replicated=1, batch_axis=0, devices=jax.devices()[:1])
    return float(run(weights, {"image": images, "label": labels}))


def fit(job: Job, pipeline: str, augment: bool, steps: int, memory_gb: float = 0.0) -> float:
    """Trains with a pipeline and returns the images/s of the summary."""
    changes = (f"data.pipeline={pipeline}", f"data.memory_gb={memory_gb}", f"total_steps={steps}")
    settings = recipe(job, *changes)
    if augment:
        settings.augment = config.load(ROOT / "configs" / MODELS[job.model][0]).augment
    with tempfile.TemporaryDirectory() as workdir:
        api.train(settings, workdir)
        summary = json.loads((Path(workdir) / "summary.json").read_text())
        return summary["timing"]["images_per_second"]


def write_arrays(job: Job, path: Path) -> float:
    """Writes the initial weights and a batch of all frameworks, and the dataset; returns the loss.

    The loss is computed in float32 with XLA's convolutions.
    """
    job = dataclasses.replace(job, framework="flaxcifar-xla", precision="float32")
    experiment = build(recipe_without_dropout(job))
    split, normalization = experiment.dataset.train, experiment.normalization
    # Spread over the split, which may be sorted by class.
    index = np.linspace(0, len(split) - 1, job.batch).astype(int)
    images = np.asarray(normalization(split.images[index].astype(np.float32)))
    labels = split.labels[index]
    weights = experiment.params | experiment.batch_stats
    everything = weights | {"batch/image": images, "batch/label": labels}
    np.savez(path, **{key: np.asarray(value) for key, value in everything.items()})
    write_dataset(path.with_name("dataset.npz"), experiment.dataset, normalization)
    return loss(experiment, weights, images, labels)
