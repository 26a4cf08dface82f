"""Textures and shapes of the source `synthetic`.

A drawing takes coordinates x and y, float32 [N, H, W], and returns float32 [N, H, W] from -1
(ground) to 1 (figure). Before they are moved, the coordinates of an image are from -1 to 1. Edges
are about one pixel of a 32x32 image wide.
"""

from collections.abc import Callable

import numpy as np

_EDGE = 8.0
DRAWINGS: dict[str, Callable] = {}


class Random:
    """Random numbers for `count` images, float32 [count, 1, 1] by default."""

    def __init__(self, key: tuple[int, int], count: int):
        self._bits = np.random.Philox(key=np.array(key, np.uint64))
        self._count = count

    def uniform(self, low: float, high: float, *shape: int) -> np.ndarray:
        """Returns float32 [count, *shape] in [low, high]."""
        shape = (self._count, *(shape or (1, 1)))
        # The upper 24 bits: float32 represents them exactly.
        unit = (self._bits.random_raw(int(np.prod(shape))) >> 40).astype(np.float32) / 2**24
        return np.float32(low) + np.float32(high - low) * unit.reshape(shape)

    def sign(self) -> np.ndarray:
        """Returns -1 or 1."""
        return np.where(self.uniform(0, 1) < 0.5, np.float32(-1), np.float32(1))

    def placed(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shifts, rotates (by up to 8 degrees) and scales coordinates [H, W]."""
        t = self.uniform(-0.07, 0.07)  # tan of half the angle
        cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
        x, y = x - self.uniform(-0.3, 0.3), y - self.uniform(-0.3, 0.3)
        scale = self.uniform(0.7, 1.4)
        return (cos * x - sin * y) * scale, (sin * x + cos * y) * scale


def _drawing(function: Callable) -> Callable:
    DRAWINGS[function.__name__.replace("_", " ")] = function
    return function


def _figure(distance: np.ndarray) -> np.ndarray:
    """Returns 1 where `distance` is positive and -1 where it is negative, with a soft edge."""
    return np.clip(distance * np.float32(_EDGE), -1, 1)


def _triangle(u: np.ndarray) -> np.ndarray:
    """Returns a triangle wave of period 1 between -1 and 1."""
    return 4 * np.abs(u - np.floor(u) - np.float32(0.5)) - 1


def _wave(u: np.ndarray) -> np.ndarray:
    """Returns a wave of period 1 between -1 and 1 that looks like a sine, made of parabolas."""
    t = _triangle(u)
    return t * (2 - np.abs(t))


def _stripes(u: np.ndarray, random: Random) -> np.ndarray:
    return np.clip(2 * _triangle(u * 2 + random.uniform(0, 1)), -1, 1)


@_drawing
def horizontal_stripes(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    return _stripes(y, random)


@_drawing
def vertical_stripes(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    return _stripes(x, random)


@_drawing
def diagonal_stripes(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    return _stripes((x * random.sign() + y) * np.float32(0.7), random)


@_drawing
def waves(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    bend = _wave(y * np.float32(0.9) + random.uniform(0, 1)) * np.float32(0.16)
    return _stripes(x + bend, random)


@_drawing
def zigzags(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    return _stripes(y + _triangle(x + random.uniform(0, 1)) * np.float32(0.3), random)


@_drawing
def checkerboard(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    u, v = (_triangle(c * np.float32(1.2) + random.uniform(0, 1)) for c in (x, y))
    return np.clip(8 * u * v, -1, 1)


@_drawing
def bricks(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    row = y * 2 + random.uniform(0, 1)
    column = x + random.uniform(0, 1) + np.floor(row) * np.float32(0.5)
    return _figure(np.maximum(_triangle(row) - np.float32(0.4), (_triangle(column) - 0.7) * 2))


@_drawing
def grid(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    u, v = (_triangle(c * np.float32(1.5) + random.uniform(0, 1)) for c in (x, y))
    return _figure((np.maximum(u, v) - np.float32(0.5)) / 2)


@_drawing
def dots(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    u, v = (_wave(c * np.float32(1.4) + random.uniform(0, 1)) for c in (x, y))
    return _figure((u + v - np.float32(0.5)) / 3)


@_drawing
def rings(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    return _stripes(np.sqrt(x * x + y * y), random)


@_drawing
def rays(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    for _ in range(3):  # (x + iy) ** 8: its angle makes eight turns
        x, y = x * x - y * y, 2 * x * y
        length = np.sqrt(x * x + y * y) + np.float32(1e-6)
        x, y = x / length, y / length
    return np.clip(2 * x, -1, 1)


@_drawing
def mosaic(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    tiles = random.uniform(-1, 1, 16, 16)
    u, v = (((c + 3) * np.float32(2.5)).astype(np.int32) % 16 for c in (x, y))
    return np.where(tiles[np.arange(len(x))[:, None, None], v, u] > 0, np.float32(1), -1)


@_drawing
def disc(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    return _figure(np.float32(0.6) - np.sqrt(x * x + y * y))


@_drawing
def square(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    return _figure(np.float32(0.55) - np.maximum(np.abs(x), np.abs(y)))


@_drawing
def triangle(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    return _figure(np.minimum(np.float32(0.5) - y, (y + np.float32(0.7)) / 2 - np.abs(x)))


@_drawing
def cross(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    u, v = np.abs(x), np.abs(y)
    return _figure(np.minimum(np.float32(0.2) - np.minimum(u, v), 0.7 - np.maximum(u, v)))


@_drawing
def hoop(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    return _figure(np.float32(0.14) - np.abs(np.sqrt(x * x + y * y) - np.float32(0.55)))


@_drawing
def frame(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    return _figure(np.float32(0.13) - np.abs(np.maximum(np.abs(x), np.abs(y)) - np.float32(0.55)))


@_drawing
def heart(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    u, v = x * np.float32(1.7), (np.float32(0.1) - y) * np.float32(1.7)
    bulge = u * u + v * v - 1
    return np.clip(-24 * (bulge * bulge * bulge - u * u * v * v * v), -1, 1)


@_drawing
def crescent(x: np.ndarray, y: np.ndarray, random: Random) -> np.ndarray:
    shifted = x + np.float32(0.35) * random.sign()
    inner = np.sqrt(shifted * shifted + y * y) - np.float32(0.5)
    return _figure(np.minimum(np.float32(0.65) - np.sqrt(x * x + y * y), inner))
