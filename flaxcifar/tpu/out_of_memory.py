"""What to do where a device's memory does not hold a step."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax

from flaxcifar import config
from flaxcifar.devices import parallel
from flaxcifar.errors import RunError
from flaxcifar.tpu import shapes
from flaxcifar.training import experiment
from flaxcifar.training.experiment import Experiment


@contextlib.contextmanager
def explained(exp: Experiment) -> Iterator[None]:
    """Raises RunError, with a batch that would fit, where a device has no memory left within."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise RunError(advice(exp)) from error


def advice(exp: Experiment) -> str:
    """Returns a line that says what did not fit and what would."""
    device, batch = parallel.all_devices()[0], exp.config.batch_size
    limit = _memory(device)
    words = f"out of memory: {device.device_kind}"
    if limit is not None:
        words += f", of which {limit / 1e9:.3g} GB may be used,"
    words += f" does not hold a step of {batch} images"
    fits = None if limit is None else fitting_batch(exp, limit)
    if fits is None:
        return f"{words}: try a smaller --config.batch_size; the last checkpoint is kept"
    return (
        f"{words}; by what the compiler says {fits} fit: --config.batch_size={fits}, and with "
        f"--config.accumulation_steps={-(-batch // fits)} updates are of as many images as before; "
        "the last checkpoint is kept"
    )


def fitting_batch(exp: Experiment, limit: int) -> int | None:
    """Returns the first of a half, a quarter, ... of the batch whose step takes at most `limit`
    bytes of each device; None if none does."""
    devices = len(parallel.all_devices())
    batch = exp.config.batch_size
    while (batch := batch // 2 // devices * devices) > 0:
        settings = config.from_json(config.to_json(exp.config) | {"batch_size": batch})
        try:
            step = shapes.training(experiment.build(settings, exp.dataset))
            size = step.lower().compile().memory_analysis()
        except jax.errors.JaxRuntimeError:  # not even the compiler's trials fit
            continue
        if memory_of(size) <= limit:
            return batch
    return None


def memory_of(size: Any) -> int:
    """Returns the bytes of one device that a program takes by its `memory_analysis()`."""
    memory = size.argument_size_in_bytes + size.output_size_in_bytes - size.alias_size_in_bytes
    return memory + size.temp_size_in_bytes + size.generated_code_size_in_bytes


def _memory(device: jax.Device) -> int | None:
    """Returns the bytes of it that JAX may take; None where it does not say, as on a CPU."""
    return (device.memory_stats() or {}).get("bytes_limit")
