"""Images in a file that are read when they are asked for, for datasets that fit into no memory."""

import functools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

# Random reads that are under way at once: one after the other a disk serves a tenth of what it can.
_READERS = 16


class OnDisk:
    """uint8 [N, H, W, 3] in a .npy file, indexed by rows like an array in memory.

    Nothing is mapped or kept: the process has no more of the file than what it has asked for and
    still holds, while the kernel caches what it has room for.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, path: Path):
        """Raises OSError or ValueError where the file cannot be read or holds something else."""
        self.path = path
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            self.shape, fortran_order, dtype = header(file)
            self._begin = file.tell()
        if dtype != self.dtype or len(self.shape) != self.ndim or fortran_order:
            raise ValueError(f"{path} holds {dtype} {self.shape}, not uint8 [N, H, W, 3]")

    @classmethod
    def create(cls, path: Path, shape: tuple[int, ...]) -> "OnDisk":
        """Returns zeros in a new file; the disk's space is taken when rows are set."""
        with open(path, "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + math.prod(shape))
        return cls(path)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Returns the images at an integer, a slice or an array of integers, as NumPy does."""
        index = self._index(rows)
        images = np.empty((index.size, *self.shape[1:]), np.uint8)
        runs = list(_runs(index.ravel()))
        shares = [runs[n::_READERS] for n in range(min(_READERS, len(runs)))]
        if len(shares) <= 1:
            self._read(images, runs)
        else:
            for _ in _pool().map(functools.partial(self._read, images), shares):
                pass
        return images.reshape(*index.shape, *self.shape[1:])

    def __setitem__(self, rows: int | slice, images: np.ndarray) -> None:
        """Writes images at an integer or a slice without a step; raises OSError where it cannot."""
        index = self._index(rows)
        shape = (*index.shape, *self.shape[1:])
        left = memoryview(np.ascontiguousarray(np.broadcast_to(images, shape)).ravel())
        if not left:
            return
        try:
            with open(self.path, "r+b", buffering=0) as file:
                file.seek(self._begin + int(index.flat[0]) * self._size)
                while left:
                    left = left[file.write(left) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.uint8, copy=False)

    @property
    def _size(self) -> int:
        return math.prod(self.shape[1:])

    def _index(self, rows: Any) -> np.ndarray:
        if isinstance(rows, slice):
            return np.arange(*rows.indices(len(self)))
        index = np.asarray(rows)
        if index.dtype.kind not in "iu":
            raise IndexError(f"rows are integers or slices, not {index.dtype}")
        index = np.where(index < 0, index + len(self), index)
        if ((index < 0) | (index >= len(self))).any():
            raise IndexError(f"rows from {index.min()} to {index.max()} of {len(self)}")
        return index

    def _read(self, images: np.ndarray, runs: list[tuple[int, int, int]]) -> None:
        with open(self.path, "rb", buffering=0) as file:
            for position, row, count in runs:
                file.seek(self._begin + row * self._size)
                left = memoryview(images[position : position + count].reshape(-1))
                while left:
                    read = file.readinto(left)
                    if not read:
                        raise OSError(f"{self.path} has become shorter")
                    left = left[read:]


def _runs(index: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yields (position, row, count) of the stretches of `index` that lie one after the other."""
    starts = np.flatnonzero(np.diff(index, prepend=-2) != 1)
    counts = np.diff(starts, append=len(index))
    yield from zip(starts.tolist(), index[starts].tolist(), counts.tolist(), strict=True)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_READERS, thread_name_prefix="images")
