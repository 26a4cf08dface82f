"""TPU chips and slices with their specifications, and the time of collectives on them.

Chips: https://docs.cloud.google.com/tpu/docs/v5e, .../v5p and .../v6e. Links, wrap-around, matrix
units and latency per hop: https://jax-ml.github.io/scaling-book (tpus, sharding). FLOPs per cycle:
libtpu's estimate of a large matrix product.
"""

import dataclasses
import math
import re

from flaxcifar.errors import UserError

HOP_SECONDS = 1e-6  # latency from a chip to its neighbour


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip of one generation.

    Attributes:
      memory: bytes of HBM.
      peak_flops: bfloat16 FLOP/s; also the rate of float32 products at default precision.
      link: bytes per second over one link to a neighbour, in one direction.
      tile: height and width of a matrix unit.
      flops_per_cycle: FLOPs per cycle of all matrix units.
      ring: an axis of a slice is a ring if its length is a multiple of this.
      slices: available shapes of up to 256 chips.
    """

    memory: int
    peak_flops: float
    link: float
    tile: int
    flops_per_cycle: int
    ring: int
    slices: tuple[str, ...]

    @property
    def clock(self) -> float:
        """Cycles per second."""
        return self.peak_flops / self.flops_per_cycle


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBIC = ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")
CHIPS = {
    "v5e": Chip(16 << 30, 197e12, 50e9, 128, 4 * 2 * 128**2, 16, _FLAT),
    "v5p": Chip(95 << 30, 459e12, 100e9, 128, 8 * 2 * 128**2, 4, _CUBIC),
    "v6e": Chip(32 << 30, 918e12, 100e9, 256, 4 * 2 * 256**2, 16, _FLAT),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """Directly connected chips, arranged as a grid of this shape."""

    generation: str
    shape: tuple[int, ...]

    @classmethod
    def parse(cls, name: str) -> "Slice":
        """Returns the slice with a name such as "v5e:4x4".

        Raises:
          UserError: there is no such slice.
        """
        generation, _, shape = name.partition(":")
        if generation not in CHIPS:
            raise UserError(
                f"unknown topology {name!r}: use {' or '.join(CHIPS)} with a shape, as in v5e:4x4"
            )
        slices = CHIPS[generation].slices
        if shape not in slices:
            raise UserError(f"unknown topology {name!r}: {generation} has {', '.join(slices)}")
        return cls(generation, tuple(map(int, re.findall(r"\d+", shape))))

    @property
    def name(self) -> str:
        """Name such as "v5e:4x4"."""
        return f"{self.generation}:{'x'.join(map(str, self.shape))}"

    @property
    def chip(self) -> Chip:
        """Specification of its chips."""
        return CHIPS[self.generation]

    @property
    def chips(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    def siblings(self) -> list["Slice"]:
        """Returns all slices of this generation, smallest first."""
        return [Slice.parse(f"{self.generation}:{shape}") for shape in self.chip.slices]

    def sent(self, collective: str, size: float) -> float:
        """Returns the minimum number of bytes that each chip sends in a collective over all chips.

        Args:
          collective: an HLO opcode such as "all-reduce".
          size: bytes of each chip's operand.
        """
        others = self.chips - 1
        share = others / self.chips
        return size * {
            "all-reduce": 2 * share,
            "reduce-scatter": share,
            "all-to-all": share,
            "all-gather": others,
            "collective-permute": min(1, others),
        }.get(collective, others)

    def seconds(self, collective: str, size: float) -> float:
        """Estimates the seconds of a collective: latency of its hops, and bytes over the links.

        An axis that is not a ring counts as one link, because the chips at its ends have only one.
        """
        if self.chips == 1:
            return 0.0
        links = sum(2 if self._is_ring(length) else 1 for length in self.shape if length > 1)
        hops = sum(length // 2 if self._is_ring(length) else length - 1 for length in self.shape)
        passes = 2 if collective == "all-reduce" else 1  # it reduces, then spreads the result
        return passes * hops * HOP_SECONDS + self.sent(collective, size) / (links * self.chip.link)

    def _is_ring(self, length: int) -> bool:
        # A slice of the 3-D v5p has rings only if it consists of whole 4 x 4 x 4 cubes.
        whole = len(self.shape) == 2 or all(side % self.chip.ring == 0 for side in self.shape)
        return whole and length % self.chip.ring == 0
