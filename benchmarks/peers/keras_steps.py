"""Keras' training and inference steps on each backend, and their devices.

The first three functions return `train` and `infer` of a `Peer`, on a batch of images
float32 [B, H, W, C] and labels int32 [B] on the device.
"""

from collections.abc import Callable

import keras
import numpy as np

Steps = tuple[Callable[[int], float], Callable[[int], None]]


def tensorflow_steps(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> Steps:
    """Returns graphs of `train_step` and of the forward pass."""
    import tensorflow as tf

    data = (tf.constant(images), tf.constant(labels))
    step = tf.function(lambda: model.train_step(data), jit_compile=model.jit_compile)
    logits = tf.function(lambda x: model(x, training=False), jit_compile=model.jit_compile)

    def train(count: int) -> float:
        for _ in range(count):
            logs = step()
        return float(logs["loss"])

    def infer(count: int) -> None:
        for _ in range(count):
            result = logits(data[0])
        result.numpy()

    return train, infer


def jax_steps(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> Steps:
    """Returns jitted steps. The training step donates its state, as in `fit`."""
    import jax
    import jax.numpy as jnp

    data = (jnp.asarray(images), jnp.asarray(labels))
    variables = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    # Copies, because the step donates its state and the model must keep its own.
    state = tuple([jnp.copy(variable.value) for variable in kind] for kind in variables)
    step = jax.jit(model.train_step, donate_argnums=0)
    forward = jax.jit(lambda t, n, x: model.stateless_call(t, n, x, training=False)[0])

    def train(count: int) -> float:
        nonlocal state
        for _ in range(count):
            logs, state = step(state, data)
        jax.block_until_ready(state)
        return float(logs["loss"])

    def infer(count: int) -> None:
        for _ in range(count):
            result = forward(state[0], state[1], data[0])
        result.block_until_ready()

    return train, infer


def torch_steps(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> Steps:
    """Returns eager steps."""
    import torch

    data = (keras.ops.convert_to_tensor(images), keras.ops.convert_to_tensor(labels))

    def train(count: int) -> float:
        model.train()
        for _ in range(count):
            logs = model.train_step(data)
        return float(logs["loss"])

    def infer(count: int) -> None:
        model.eval()
        with torch.no_grad():
            for _ in range(count):
                result = model(data[0], training=False)
        float(result.sum())

    return train, infer


def accelerator(backend: str) -> str | None:
    """Returns the name of the accelerator in use, or None on a CPU."""
    if backend == "jax":
        import jax

        device = jax.devices()[0]
        return None if device.platform == "cpu" else device.device_kind
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else None
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(found[0])["device_name"] if found else None


def device_memory(backend: str) -> int | None:
    """Returns the peak memory of an accelerator in bytes, or None on a CPU."""
    if accelerator(backend) is None:
        return None
    if backend == "jax":
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if backend == "torch":
        import torch

        return torch.cuda.max_memory_allocated()
    import tensorflow as tf

    return tf.config.experimental.get_memory_info("GPU:0")["peak"]
