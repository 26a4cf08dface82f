"""Keras 3 on any backend: its own `train_step`, compiled as in `fit`.

The step is called directly, without the iterator, callbacks and progress bar of `fit`, which is
Keras' fastest mode. On TensorFlow the step is a graph. On a CPU it uses oneDNN's convolutions,
because `jit_compile=True` is several times slower there. On other devices Keras decides. On JAX the
step is jitted and its state donated. On torch it runs eagerly.
"""

import functools
import gc

import keras

from benchmarks.jobs import Job, matches, recipe, recipe_without_dropout
from benchmarks.peers import keras_pipelines, keras_steps
from benchmarks.peers.peer import Peer, network_spec, read_arrays
from flaxcifar.keras_weights import networks


def make(job: Job) -> Peer:
    """Returns Keras' training step on the backend set by the environment."""
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
    """Returns the compiled model of a recipe, with frozen layers."""
    model = build(recipe(job), weights, image_shape)
    for layer in model.layers:
        if job.frozen and matches(job.frozen, layer.name.replace("-", "/")):
            layer.trainable = False
    model.compile(
        optimizer=make_optimizer(recipe(job).optimizer),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=keras.backend.backend() == "jax" or ("auto" if on_gpu else False),
    )
    model.optimizer.build(model.trainable_variables)
    return model


def build(settings, weights: dict, image_shape: tuple) -> keras.Model:
    """Returns the network of a config with the given weights and its L2 penalty."""
    classes = weights["head/kernel"].shape[-1]
    model = penalized(settings, network_spec(settings, weights), image_shape, classes)
    networks.set_weights(model, weights)
    return model


def penalized(settings, spec: dict, image_shape: tuple, classes: int) -> keras.Model:
    """Returns the network of a `network_spec` with the L2 penalty of a config."""

    def penalty(path: str):
        l2 = settings.l2
        penalizes = l2.coefficient and matches(l2.pattern, path)
        return keras.regularizers.L2(l2.coefficient) if penalizes else None

    return networks.build(spec, image_shape, classes, penalty)


def first_loss(job: Job) -> float:
    """Returns the loss before the first step, without dropout."""
    weights, images, labels = read_arrays(job)
    model = build(recipe_without_dropout(job), weights, images.shape[1:])
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        # Without jit every layer would be compiled separately.
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


def make_optimizer(spec) -> keras.Optimizer:
    """Returns the counterpart of a config's optimizer."""
    if spec.name == "sgd":
        return keras.optimizers.SGD(spec.learning_rate, spec.momentum, nesterov=spec.nesterov)
    if spec.name == "adam":
        return keras.optimizers.Adam(spec.learning_rate, epsilon=spec.eps)
    raise ValueError(f"optimizer {spec.name!r} has no counterpart in Keras")
