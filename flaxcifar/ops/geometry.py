"""Geometry of a 2-D convolution in NHWC, the only layout that the CPU backends support."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """A convolution of NHWC activations with an HWIO kernel.

    Attributes:
      strides: along height and width.
      padding: zeros (before, after) each spatial axis, never negative.
      dilation: of the kernel, along height and width.
      groups: number of feature groups.
    """

    strides: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair = (1, 1)
    groups: int = 1

    def output_shape(self, lhs: Sequence[int], rhs: Sequence[int]) -> tuple[int, ...]:
        """Returns the shape [N, OH, OW, O] for shapes [N, H, W, C] and [KH, KW, C / groups, O]."""
        spatial = (
            (size + sum(padding) - (kernel - 1) * dilation - 1) // stride + 1
            for size, kernel, stride, padding, dilation in zip(
                lhs[1:3], rhs[:2], self.strides, self.padding, self.dilation, strict=True
            )
        )
        return (lhs[0], *spatial, rhs[3])

    def idle_taps(self, lhs: Sequence[int], rhs: Sequence[int]) -> bool:
        """Returns whether some row or column of the kernel only ever multiplies padding."""
        output = self.output_shape(lhs, rhs)
        for axis in range(2):
            stride, (before, _) = self.strides[axis], self.padding[axis]
            for tap in range(rhs[axis]):
                first = tap * self.dilation[axis] - before
                pixels = range(first, first + stride * output[1 + axis], stride)
                if not any(0 <= pixel < lhs[1 + axis] for pixel in pixels):
                    return True
        return False


def geometry(
    lhs: Any,
    rhs: Any,
    window_strides: Sequence[int],
    padding: str | Sequence[Pair],
    lhs_dilation: Sequence[int] | None,
    rhs_dilation: Sequence[int] | None,
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
) -> Geometry | None:
    """Returns the geometry of a `jax.lax.conv_general_dilated` call, or None if unsupported.

    Other layouts, a dilated input, batch groups, negative padding and empty arrays are unsupported.
    """
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    nhwc, hwio = (0, 3, 1, 2), (3, 2, 0, 1)
    if lhs.ndim != 4 or numbers != lax.ConvDimensionNumbers(nhwc, hwio, nhwc):
        return None
    if batch_group_count != 1 or any(d != 1 for d in lhs_dilation or ()):
        return None
    dilation = tuple(rhs_dilation or (1, 1))
    if isinstance(padding, str):
        size = [(kernel - 1) * d + 1 for kernel, d in zip(rhs.shape[:2], dilation, strict=True)]
        padding = lax.padtype_to_pads(lhs.shape[1:3], size, window_strides, padding)
    vertical, horizontal = ((int(before), int(after)) for before, after in padding)
    (down, right), (high, wide) = window_strides, dilation
    found = Geometry((down, right), (vertical, horizontal), (high, wide), feature_group_count)
    empty = 0 in lhs.shape or 0 in rhs.shape or min(found.output_shape(lhs.shape, rhs.shape)) < 1
    if empty or min(vertical + horizontal) < 0:
        return None
    return found


def vary_like(x: jax.Array, *others: jax.Array) -> jax.Array:
    """Casts x inside `shard_map` to vary over all mesh axes over which `others` vary.

    Autodiff then sums the gradient of x over the added axes. Outside `shard_map` it returns x.
    """

    def axes(array):
        kind = jax.typeof(array)
        return getattr(kind, "vma", None) or kind.manual_axis_type.varying

    wanted = frozenset().union(*(axes(other) for other in others)) - axes(x)
    return lax.pcast(x, tuple(wanted), to="varying") if wanted else x
