"""Data parallelism: the only place that knows about devices.

A step function is written for one device's share of the batch; here it becomes a function of the
batch over all devices. `jax.pmap` does it in one process (it is built on jit and shard_map);
`shard_map` is the same over an explicit mesh, which several processes want, and ahead-of-time
compilation. Each process brings its own rows of a batch.
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
    """Returns the devices that a run in this thread uses: those of all processes, process after
    process, or those that `using` names."""
    return _devices.get() or tuple(sorted(jax.devices(), key=lambda d: (d.process_index, d.id)))


@contextlib.contextmanager
def using(devices: Sequence[jax.Device]) -> Iterator[None]:
    """Within, this thread's runs use these devices and no others of this process.

    They may be a topology's that is compiled for and not there.
    """
    token = _devices.set(tuple(devices))
    there = devices[0] in jax.local_devices()
    try:
        with jax.default_device(devices[0]) if there else contextlib.nullcontext():
            yield
    finally:
        _devices.reset(token)


def per_device(batch_size: int, name: str = "batch_size") -> int:
    """Returns one device's share of a global batch; raises UserError where it is not whole."""
    count = len(all_devices())
    if batch_size % count:
        down, up = batch_size // count * count, -(-batch_size // count) * count
        near = f"{down} or {up}" if down else f"{up}"
        raise UserError(f"{name}={batch_size} does not divide over {count} devices: take {near}")
    return batch_size // count


def own_rows(batch_size: int) -> slice:
    """Returns the rows of a global batch that this process brings."""
    share = batch_size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def replicate(tree: Any, devices: Sequence[jax.Device] | None = None) -> Any:
    """Returns copies of the arrays of `tree` on all devices, placed as steps return them.

    A step that is called with arrays placed in another way works, but is compiled once more.
    """
    mesh = Mesh(np.array(devices or all_devices()), (AXIS,))
    placed = jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
    # The caller may donate the result: it must not share memory with `tree`.
    return jax.tree.map(jnp.copy, placed)


def any_process(flag: bool) -> jax.Array:
    """Returns whether the flag of any process is set, as a scalar that is equal in all of them.

    It is computed after what the devices have in hand; nobody waits for it here.
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
    """Returns `step` over all devices.

    Args:
      step: takes `replicated` pytrees that every device sees whole, then a batch of which it sees
        its share, and returns values that are equal on all devices (`AXIS` names them).
      replicated: the number of arguments before the batch.
      batch_axis: the axis of the batch's arrays that is split evenly.
      donate: the indices of arguments whose memory the results may take.
      devices: all by default.
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
    """Returns the same function as `pmap` does, as one jitted shard_map over a mesh."""
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
    """Returns `shard_map`'s function of global arrays, which can be compiled ahead of time."""
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
    # Several devices of one CPU share one pool of threads: with two dispatches in flight, each can
    # hold threads that the other's all-reduce waits for, for ever.
    if devices[0].platform != "cpu" or len(devices) == 1:
        return run
    return lambda *args: jax.block_until_ready(run(*args))
