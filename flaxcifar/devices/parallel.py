"""Data parallelism: runs a step over all devices. No other module uses pmap or shard_map.

A step is written for one device's shard of the batch, and reduces over the axis `AXIS`. In one
process `jax.pmap` maps it over the devices (it is built on jit and shard_map). Several processes
and ahead-of-time compilation use `shard_map` over an explicit mesh instead. Each process supplies
its own rows of a batch.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxcifar.errors import UserError

AXIS = "batch"

_devices: contextvars.ContextVar[tuple[jax.Device, ...] | None] = contextvars.ContextVar(
    "devices", default=None
)


def all_devices() -> tuple[jax.Device, ...]:
    """Returns the devices that this thread's runs use: those of `using`, or all of all processes.

    The devices of process 0 come first. Raises UserError if JAX_PLATFORMS names a platform without
    devices.
    """
    return _devices.get() or tuple(sorted(_found(), key=lambda d: (d.process_index, d.id)))


def _found() -> list[jax.Device]:
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
        if not platforms:
            raise
        words = " ".join(str(error).split()) or "no such device"
        raise UserError(
            f"JAX cannot use the platform {platforms!r} of JAX_PLATFORMS ({words}): "
            "`unset JAX_PLATFORMS` lets it choose"
        ) from error


@contextlib.contextmanager
def using(devices: Sequence[jax.Device]) -> Iterator[None]:
    """Context manager: this thread's runs use `devices` only.

    They may belong to a topology that is only compiled for.
    """
    token = _devices.set(tuple(devices))
    exists = devices[0] in jax.local_devices()
    try:
        with jax.default_device(devices[0]) if exists else contextlib.nullcontext():
            yield
    finally:
        _devices.reset(token)


def per_device(batch_size: int, name: str = "batch_size") -> int:
    """Returns the batch size of one device; raises UserError if the devices cannot share evenly."""
    count = len(all_devices())
    if batch_size % count:
        down, up = batch_size // count * count, -(-batch_size // count) * count
        near = f"{down} or {up}" if down else f"{up}"
        raise UserError(f"{name}={batch_size} does not divide over {count} devices: use {near}")
    return batch_size // count


def own_rows(batch_size: int) -> slice:
    """Returns the rows of a global batch that this process supplies."""
    share = batch_size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def replicate(tree: Any, devices: Sequence[jax.Device] | None = None) -> Any:
    """Returns copies of the arrays of `tree`, replicated over the devices as steps return them.

    A step also accepts arrays that are placed otherwise, but compiles again for them.
    """
    mesh = Mesh(np.array(devices or all_devices()), (AXIS,))
    placed = jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
    # The caller may donate the result, so it must not share memory with `tree`.
    return _copied(placed)


@jax.jit  # one program for the tree, instead of one for every shape
def _copied(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def any_process(flag: bool) -> jax.Array:
    """Returns whether any process has set its flag, as a scalar that is the same in all of them.

    Queues the computation behind the devices' current work and does not wait for it.
    """
    mesh = Mesh(np.array(all_devices()), (AXIS,))
    own = np.full(jax.local_device_count(), flag)
    flags = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec(AXIS)), own)
    return jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))(flags)


def pmap(
    step: Callable[..., Any],
    *,
    replicated: int,
    batch_axis: int,
    donate: Sequence[int] = (),
    devices: Sequence[jax.Device] | None = None,
) -> Callable[..., Any]:
    """Returns `step` mapped over the devices.

    Args:
      step: takes `replicated` pytrees, which are the same on every device, then the device's shard
        of the batch. Returns values that are the same on every device.
      replicated: the number of arguments before the batch.
      batch_axis: the axis along which the arrays of the batch are split.
      donate: the indices of the arguments to donate.
      devices: by default `all_devices`.
    """
    if jax.process_count() > 1:
        return shard_map(
            step, replicated=replicated, batch_axis=batch_axis, donate=donate, devices=devices
        )
    devices = list(devices or all_devices())
    mapped = jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None,) * replicated + (batch_axis,),
        out_axes=None,
        donate_argnums=tuple(donate),
        devices=devices,
    )

    def split(array: np.ndarray) -> np.ndarray:
        shape = array.shape
        share = (len(devices), shape[batch_axis] // len(devices))
        return array.reshape(*shape[:batch_axis], *share, *shape[batch_axis + 1 :])

    def run(*args: Any) -> Any:
        return mapped(*args[:-1], jax.tree.map(split, args[-1]))

    return _in_turn(run, devices)


def shard_map(
    step: Callable[..., Any],
    *,
    replicated: int,
    batch_axis: int,
    donate: Sequence[int] = (),
    devices: Sequence[jax.Device] | None = None,
) -> Callable[..., Any]:
    """Returns what `pmap` returns, made by a jitted shard_map over a mesh."""
    devices = list(devices or all_devices())
    run = jitted(step, replicated=replicated, batch_axis=batch_axis, donate=donate, devices=devices)
    if jax.process_count() == 1:
        return _in_turn(run, devices)
    sharding = NamedSharding(Mesh(np.array(devices), (AXIS,)), _batch_spec(batch_axis))

    def whole(own: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, own)

    return _in_turn(lambda *args: run(*args[:-1], jax.tree.map(whole, args[-1])), devices)


def jitted(
    step: Callable[..., Any],
    *,
    replicated: int,
    batch_axis: int,
    donate: Sequence[int] = (),
    devices: Sequence[jax.Device] | None = None,
) -> Any:
    """Returns the jitted function of global arrays that `shard_map` calls.

    It can be lowered and compiled ahead of time.
    """
    mesh = Mesh(np.array(devices or all_devices()), (AXIS,))
    specs = (PartitionSpec(),) * replicated + (_batch_spec(batch_axis),)
    sharded = jax.shard_map(
        step, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
    )
    shardings = tuple(NamedSharding(mesh, spec) for spec in specs)
    return jax.jit(sharded, in_shardings=shardings, donate_argnums=tuple(donate))


def _batch_spec(batch_axis: int) -> PartitionSpec:
    return PartitionSpec(*(None,) * batch_axis, AXIS)


def _in_turn(run: Callable[..., Any], devices: Sequence[jax.Device]) -> Callable[..., Any]:
    # The devices of a CPU share one thread pool. Two dispatches in flight can deadlock: each holds
    # threads that the other's all-reduce waits for.
    if devices[0].platform != "cpu" or len(devices) == 1:
        return run
    return lambda *args: jax.block_until_ready(run(*args))
