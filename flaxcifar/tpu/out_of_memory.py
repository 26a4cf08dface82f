"""Suggests a batch size after a device ran out of memory."""

from typing import Any

import jax

from flaxcifar import config
from flaxcifar.devices import parallel
from flaxcifar.tpu import shapes
from flaxcifar.training.experiment import Experiment, build


def advice(experiment: Experiment) -> str | None:
    """Returns a batch size that fits in words; None if the device does not report its memory."""
    limit = memory_limit(parallel.all_devices()[0])
    if limit is None:
        return None
    fits = fitting_batch(experiment, limit)
    if fits is None:
        return None
    batch = experiment.config.batch_size
    return (
        f"the compiler estimates that {fits} images fit into the {limit / 1e9:.3g} GB available: "
        f"--config.batch_size={fits} --config.accumulation_steps={-(-batch // fits)} keeps "
        f"{batch} images per update"
    )


def fitting_batch(experiment: Experiment, limit: int) -> int | None:
    """Returns the first of 1/2, 1/4, ... of the batch size whose step fits into `limit` bytes.

    Returns None if none fits. The limit applies to each device.
    """
    devices = len(parallel.all_devices())
    batch = experiment.config.batch_size
    while (batch := batch // 2 // devices * devices) > 0:
        settings = config.from_json(config.to_json(experiment.config) | {"batch_size": batch})
        try:
            step = shapes.training(build(settings, experiment.dataset))
            size = step.lower().compile().memory_analysis()
        except jax.errors.JaxRuntimeError:  # compilation itself ran out of memory
            continue
        if memory_of(size) <= limit:
            return batch
    return None


def memory_of(size: Any) -> int:
    """Returns the bytes per device that a program needs, from its `memory_analysis()`."""
    memory = size.argument_size_in_bytes + size.output_size_in_bytes - size.alias_size_in_bytes
    return memory + size.temp_size_in_bytes + size.generated_code_size_in_bytes


def memory_limit(device: jax.Device) -> int | None:
    """Returns the bytes that JAX may allocate on a device; None if unknown, as on a CPU."""
    return (device.memory_stats() or {}).get("bytes_limit")
