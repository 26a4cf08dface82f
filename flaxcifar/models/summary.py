"""What a network is made of: layers, output shapes, parameters, FLOPs, trained or frozen."""

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxcifar import console
from flaxcifar.models.network import Network, frozen_modules


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer, in the order of the computation.

    Attributes:
      path: as in the parameters' paths.
      kind: what it is, in words.
      shape: of its output for one image.
      parameters: numbers in its parameters and statistics.
      flops: of one image forward, two for each multiplication and addition; 0 for what is neither
        convolution nor dense.
      frozen: whether it stays in evaluation mode while the network trains.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    flops: int
    frozen: bool


def layer_rows(
    network: Network, image_shape: tuple[int, int, int], frozen: Collection[str] = frozenset()
) -> list[Row]:
    """Returns a row for each layer by tracing the network; nothing is computed."""
    rows = []

    def recorded(path: str, layer: nnx.Module, still: bool) -> Callable[..., jax.Array]:
        def call(*args):
            output = layer(*args)
            shape = output.shape[1:]
            size = sum(x.size for x in jax.tree.leaves(nnx.state(layer)))
            rows.append(Row(path, _kind(layer), shape, size, _flops(layer, shape), still))
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
            # On the instance's parent: a call of the instance would be looked up on its type.
            setattr(modules.get(path[:-1], model), path[-1], call)
        return model(images, None)

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    jax.eval_shape(trace, *network.abstract(), images)
    return rows


def model_summary(
    network: Network, image_shape: tuple[int, int, int], frozen: Collection[str] = frozenset()
) -> tuple[console.Table, dict[str, int]]:
    """Returns a table of the layers, and the totals.

    Args:
      image_shape: (H, W, C).
      frozen: paths of the parameters that do not train.

    Returns:
      A renderable of rich, and a dict with `total` (parameters and statistics), `trained`, `frozen`
      (parameters), `statistics`, `flops_per_image` (forward) and `training_flops_per_image`
      (forward, and backward as far as it is computed).
    """
    rows = layer_rows(network, image_shape, frozen)
    params, batch_stats = network.abstract()
    sizes = {path: math.prod(value.shape) for path, value in params.items()}
    totals = {
        "total": sum(row.parameters for row in rows),
        "trained": sum(size for path, size in sizes.items() if path not in frozen),
        "frozen": sum(size for path, size in sizes.items() if path in frozen),
        "statistics": sum(math.prod(value.shape) for value in batch_stats.values()),
        "flops_per_image": sum(row.flops for row in rows),
        "training_flops_per_image": _training_flops(rows, frozen),
    }
    cells = [
        (
            row.path,
            row.kind,
            " x ".join(map(str, row.shape)),
            f"{row.parameters:,}" if row.parameters else "",
            _mega(row.flops) if row.flops else "",
            state(row, sizes, frozen),
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
    table = console.table("Model", headings, cells, justify="lllrrl", footers=footers)
    return table, totals


def _training_flops(rows: Sequence[Row], frozen: Collection[str]) -> int:
    """Counts each layer forward, for its kernel's gradient, and for its input's where one below it
    trains: each of the three is as many operations."""
    total, below = 0, False
    for row in rows:
        trains = row.flops > 0 and f"{row.path}/kernel" not in frozen
        total += row.flops * (1 + trains + below)
        # What has no FLOPs here, a BatchNorm say, may train, too.
        below = below or (row.parameters > 0 and not row.frozen)
    return total


def state(row: Row, paths: Collection[str], frozen: Collection[str]) -> str:
    """Returns "trained", "frozen", "partly frozen" or, of a layer without parameters, ""."""
    if row.frozen:
        return "frozen"
    own = [path for path in paths if path.startswith(f"{row.path}/")]
    return "partly frozen" if any(path in frozen for path in own) else "trained" if own else ""


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


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def _flops(layer: nnx.Module, shape: tuple[int, ...]) -> int:
    if isinstance(layer, nnx.Conv | nnx.Linear):
        kernel = layer.kernel.shape
        return 2 * math.prod(shape[:-1]) * math.prod(kernel)
    return 0
