"""Summary of a network: layers, output shapes, parameters, FLOPs, trained or frozen."""

import dataclasses
import math
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxcifar import console
from flaxcifar.models.network import Network, frozen_modules


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer of a network.

    Attributes:
      path: path of the layer, a prefix of its parameters' paths.
      kind: description such as "Conv 3 x 3".
      shape: output shape for one image.
      parameters: number of parameters and batch statistics.
      flops: forward FLOPs for one image, two per multiply-add; 0 except for convolutions and dense
        layers.
      state: "trained", perhaps with how, "frozen" (stays in evaluation mode), "partly frozen", or
        "" for a trained layer without parameters.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    flops: int
    state: str


def layer_rows(
    network: Network,
    image_shape: tuple[int, ...],
    frozen: Collection[str] = frozenset(),
    how: Mapping[str, str] = types.MappingProxyType({}),
) -> list[Row]:
    """Returns the layers in the order of computation. Traces the network, computes nothing."""
    rows = []
    params, batch_stats = network.abstract()

    def recorded(path: str, layer: nnx.Module, still: bool) -> Callable[..., jax.Array]:
        def call(*args):
            output = layer(*args)
            shape = output.shape[1:]
            size = sum(x.size for x in jax.tree.leaves(nnx.state(layer)))
            state = "frozen" if still else _state(path, params, frozen, how)
            rows.append(Row(path, _kind(layer), shape, size, _flops(layer, shape), state))
            return output

        return call

    def trace(params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
        model = network.module(params, batch_stats)
        model.eval()
        modules = {path: module for path, module in nnx.iter_modules(model) if path}
        blocks = {block for block, _ in frozen_modules(model, frozen)}
        for path, module in modules.items():
            if any(len(other) > len(path) and other[: len(path)] == path for other in modules):
                continue
            if getattr(module, "rate", None) == 0:
                continue
            above = ["/".join(map(str, path[:n])) for n in range(len(path) + 1)]
            call = recorded(above[-1], module, not blocks.isdisjoint(above))
            # Replaces the attribute of the parent, because Python looks up `__call__` on the type.
            parent: Any = modules.get(path[:-1], model)
            name: Any = path[-1]
            if isinstance(parent, nnx.List):
                parent[name] = call
            else:
                setattr(parent, str(name), call)
        return model(images)

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    jax.eval_shape(trace, params, batch_stats, images)
    return rows


def model_summary(
    network: Network,
    image_shape: tuple[int, ...],
    frozen: Collection[str] = frozenset(),
    how: Mapping[str, str] = types.MappingProxyType({}),
) -> tuple[list[Row], dict[str, int]]:
    """Returns the layers and their totals.

    Args:
      network: the network.
      image_shape: (H, W, C).
      frozen: paths of the frozen parameters.
      how: {path: words} of parameters that train otherwise than most, such as "at 0.1 x the rate".

    Returns:
      The layers, and a dict with `total` (parameters and batch statistics), `trained` and `frozen`
      (parameters), `statistics`, `flops_per_image` (forward) and `training_flops_per_image`
      (forward, and those gradients that are computed).
    """
    rows = layer_rows(network, image_shape, frozen, how)
    params, batch_stats = network.abstract()
    sizes = {path: math.prod(value.shape) for path, value in params.items()}
    return rows, {
        "total": sum(row.parameters for row in rows),
        "trained": sum(size for path, size in sizes.items() if path not in frozen),
        "frozen": sum(size for path, size in sizes.items() if path in frozen),
        "statistics": sum(math.prod(value.shape) for value in batch_stats.values()),
        "flops_per_image": sum(row.flops for row in rows),
        "training_flops_per_image": _training_flops(rows, frozen),
    }


def summary_table(rows: Sequence[Row], totals: Mapping[str, int]) -> console.Table:
    """Returns the result of `model_summary` as a table for `console.show`."""
    cells = [
        (
            row.path,
            row.kind,
            " x ".join(map(str, row.shape)),
            f"{row.parameters:,}" if row.parameters else "",
            _mega(row.flops) if row.flops else "",
            row.state,
        )
        for row in rows
    ]
    footers = (
        f"{len(rows)} layers",
        "",
        "",
        f"{totals['total']:,}",
        _mega(totals["flops_per_image"]),
        f"{totals['trained']:,} trained, {totals['frozen']:,} frozen",
    )
    headings = ("layer", "kind", "output", "parameters", "MFLOPs", "")
    return console.table("Model", headings, cells, justify="lllrrl", footers=footers)


def _training_flops(rows: Sequence[Row], frozen: Collection[str]) -> int:
    """Returns the FLOPs of a training step for one image.

    A layer's forward pass, kernel gradient and input gradient cost the same. The kernel gradient is
    computed if the kernel trains, the input gradient if an earlier layer trains.
    """
    total, below = 0, False
    for row in rows:
        trains = row.flops > 0 and f"{row.path}/kernel" not in frozen
        total += row.flops * (1 + trains + below)
        # Layers without FLOPs, such as BatchNorm, may train as well.
        below = below or (row.parameters > 0 and row.state != "frozen")
    return total


def _state(
    path: str, params: Collection[str], frozen: Collection[str], how: Mapping[str, str]
) -> str:
    own = [name for name in params if name.startswith(f"{path}/")]
    if any(name in frozen for name in own):
        return "partly frozen"
    words = dict.fromkeys(how.get(name, "") for name in own)
    if len(words) > 1:
        words = {"partly " + " and ".join(filter(None, words)): None}
    return " ".join(["trained", *words]).strip() if own else ""


def _mega(flops: int) -> str:
    return f"{flops / 1e6:,.2f}"


def _kind(layer: nnx.Module) -> str:
    if isinstance(layer, nnx.Conv):
        size = " x ".join(map(str, layer.kernel_size))
        strided = any(stride > 1 for stride in _pair(layer.strides))
        return f"Conv {size}" + (f" / {_pair(layer.strides)[0]}" if strided else "")
    if hasattr(layer, "rate"):
        return f"Dropout {layer.rate:g}"
    return type(layer).__name__


def _pair(value: int | Sequence[int] | None) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value or (1,))


def _flops(layer: nnx.Module, shape: tuple[int, ...]) -> int:
    if isinstance(layer, nnx.Conv | nnx.Linear):
        kernel = layer.kernel.shape
        return 2 * math.prod(shape[:-1]) * math.prod(kernel)
    return 0
