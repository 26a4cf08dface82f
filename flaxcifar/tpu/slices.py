"""TPU chips and slices as their makers describe them, and what follows for an all-reduce.

Figures of a chip: https://docs.cloud.google.com/tpu/docs/v5e, .../v5p and .../v6e. Links, where
they wrap around, the matrix units and the time of a hop: https://jax-ml.github.io/scaling-book
(tpus, sharding). Operations in a cycle: what libtpu expects of a large product of matrices.
"""

import dataclasses
import math
import re

from flaxcifar.errors import UserError

# Seconds that a message takes to the next chip, however short it is.
HOP_SECONDS = 1e-6


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation.

    Attributes:
      memory: bytes of HBM.
      peak_flops: bfloat16 operations a second; float32 products run at this rate, too, unless
        their precision is asked for.
      bandwidth: bytes a second to and from HBM.
      link: bytes a second one way over one link to a neighbour.
      tile: height and width of a matrix unit.
      flops_per_cycle: of all matrix units.
      ring: an axis of a slice is a ring where its length is a multiple of this.
      slices: the shapes there are, up to 256 chips.
    """

    memory: int
    peak_flops: float
    bandwidth: float
    link: float
    tile: int
    flops_per_cycle: int
    ring: int
    slices: tuple[str, ...]

    @property
    def clock(self) -> float:
        """Cycles a second."""
        return self.peak_flops / self.flops_per_cycle


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBIC = ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")
CHIPS = {
    "v5e": Chip(16 << 30, 197e12, 819e9, 50e9, 128, 4 * 2 * 128**2, 16, _FLAT),
    "v5p": Chip(95 << 30, 459e12, 2765e9, 100e9, 128, 8 * 2 * 128**2, 4, _CUBIC),
    "v6e": Chip(32 << 30, 918e12, 1600e9, 100e9, 256, 4 * 2 * 256**2, 16, _FLAT),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips that are connected directly: a box of this shape."""

    generation: str
    shape: tuple[int, ...]

    @classmethod
    def parse(cls, name: str) -> "Slice":
        """Returns the slice of a name like "v5e:4x4"; raises UserError where there is none."""
        generation, _, shape = name.partition(":")
        if generation not in CHIPS:
            raise UserError(f"unknown topology {name!r}: it is {' or '.join(CHIPS)}, as in v5e:4x4")
        slices = CHIPS[generation].slices
        if shape not in slices:
            raise UserError(f"unknown topology {name!r}: {generation} has {', '.join(slices)}")
        return cls(generation, tuple(map(int, re.findall(r"\d+", shape))))

    @property
    def name(self) -> str:
        """As `parse` takes it."""
        return f"{self.generation}:{'x'.join(map(str, self.shape))}"

    @property
    def chip(self) -> Chip:
        """What the slice is made of."""
        return CHIPS[self.generation]

    @property
    def chips(self) -> int:
        """Their number."""
        return math.prod(self.shape)

    def siblings(self) -> list["Slice"]:
        """Returns the slices of this generation, the smallest first."""
        return [Slice.parse(f"{self.generation}:{shape}") for shape in self.chip.slices]

    def sent(self, collective: str, size: float) -> float:
        """Returns the bytes that each chip sends, at least, in a collective over all chips.

        `size` are the bytes of each chip's operand.
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
        """Estimates a collective's time: its hops, and its bytes over the links that help.

        A chip at the end of an axis that is no ring has one link along it, which all wait for.
        """
        if self.chips == 1:
            return 0.0
        links = sum(2 if self._is_ring(length) else 1 for length in self.shape if length > 1)
        hops = sum(length // 2 if self._is_ring(length) else length - 1 for length in self.shape)
        passes = 2 if collective == "all-reduce" else 1  # it reduces, then spreads the result
        return passes * hops * HOP_SECONDS + self.sent(collective, size) / (links * self.chip.link)

    def _is_ring(self, length: int) -> bool:
        # The third axis of a v5p is there only in whole cubes of 4 x 4 x 4, and so are its rings.
        whole = len(self.shape) == 2 or all(side % self.chip.ring == 0 for side in self.shape)
        return whole and length % self.chip.ring == 0
