"""Keras 3 on any backend: its own `train_step`, compiled as `fit` compiles it.

The step is called directly, without `fit`'s iterator, callbacks and progress bar, which is the
fastest that Keras goes. TensorFlow's step is a graph with oneDNN's convolutions on a CPU, where
`jit_compile=True` is several times slower, and as Keras decides elsewhere; JAX's step is jitted and
reuses the state's memory; torch's runs eagerly.
"""

import functools
import gc

import keras

from benchmarks.jobs import Job, matches, recipe, recipe_without_dropout
from benchmarks.peers import keras_pipelines, keras_steps
from benchmarks.peers.peer import Peer, network_spec, read_arrays
from flaxcifar.keras_weights import networks


def make(job: Job) -> Peer:
    """Returns Keras' part, on the backend of the environment."""
    backend = keras.backend.backend()
    if job.precision == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    weights, images, labels = read_arrays(job)
    on_gpu = keras_steps.accelerator(backend) is not None
    model = compiled(job, weights, images.shape[1:], on_gpu)
    make_steps = getattr(keras_steps, f"{backend}_steps")
    train, infer = make_steps(model, images, labels)
    return Peer(
        parameters=model.count_params(),
        device=keras_steps.accelerator(backend) or "cpu",
        packages=("keras", backend, *(("jaxlib",) if backend == "jax" else ()), "numpy"),
        first_loss=functools.partial(first_loss, job),
        train=train,
        infer=infer,
        device_memory=functools.partial(keras_steps.device_memory, backend),
        fit=functools.partial(keras_pipelines.fit, job, model),
    )


def compiled(job: Job, weights: dict, image_shape: tuple, on_gpu: bool) -> keras.Model:
    """Returns the recipe's model with its optimizer and with what is frozen."""
    model = build(recipe(job), weights, image_shape)
    for layer in model.layers:
        if job.frozen and matches(job.frozen, layer.name.replace("-", "/")):
            layer.trainable = False
    model.compile(
        optimizer=_optimizer(recipe(job).optimizer),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=keras.backend.backend() == "jax" or ("auto" if on_gpu else False),
    )
    model.optimizer.build(model.trainable_variables)
    return model


def build(settings, weights: dict, image_shape: tuple) -> keras.Model:
    """Returns the network of a config with these weights and its L2 penalty."""

    def penalty(path: str):
        l2 = settings.l2
        return keras.regularizers.L2(l2.coefficient) if matches_l2(l2, path) else None

    classes = weights["head/kernel"].shape[-1]
    spec = network_spec(settings, weights)
    model = networks.build(spec, image_shape, classes, penalty)
    networks.set_weights(model, weights)
    return model


def matches_l2(l2, path: str) -> bool:
    """Whether the L2 penalty of a config holds for a parameter."""
    return bool(l2.coefficient) and matches(l2.pattern, path)


def first_loss(job: Job) -> float:
    """Returns the loss before the first step, without dropout."""
    weights, images, labels = read_arrays(job)
    model = build(recipe_without_dropout(job), weights, images.shape[1:])
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        # Call by call every layer would be compiled by itself.
        forward = jax.jit(
            functools.partial(model.stateless_call, training=True, return_losses=True)
        )
        state = [[v.value for v in model.trainable_variables]]
        state += [[v.value for v in model.non_trainable_variables]]
        logits, _, penalties = forward(*state, images)
    elif backend == "torch":
        import torch

        with torch.no_grad():
            logits, penalties = model(images, training=True), model.losses
    else:
        logits, penalties = model(images, training=True), model.losses
    loss = float(cross_entropy(labels, logits)) + sum(float(penalty) for penalty in penalties)
    del model, logits
    gc.collect()
    return loss


def _optimizer(spec) -> keras.Optimizer:
    if spec.name == "sgd":
        return keras.optimizers.SGD(spec.learning_rate, spec.momentum, nesterov=spec.nesterov)
    if spec.name == "adam":
        return keras.optimizers.Adam(spec.learning_rate, epsilon=spec.eps)
    raise ValueError(f"no counterpart of the optimizer {spec.name!r}")
