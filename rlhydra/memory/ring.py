"""Arrays whose leading axis is a ring of rows, and what a checkpoint needs to know of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]

BLOCK = 4096  # rows that are loaded at once


@dataclass(frozen=True)
class Rows:
    """Rows `start` to `stop` of arrays that grow together; none changes once it was written.

    So a checkpoint writes those only that the one before it had not. `read(first, last)` copies
    rows out, as long as the memory that they come from holds them.
    """

    start: int
    stop: int
    read: Callable[[int, int], dict[str, Array]]


class Ring:
    """Named arrays of so many rows; row number r lies at r % rows."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._arrays: dict[str, Array] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Return a new array (rows, *shape) of zeros."""
        self._arrays[name] = np.zeros((self.rows, *shape), dtype)
        return self._arrays[name]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self._arrays.values())

    def read(self, first: int, last: int) -> dict[str, Array]:
        """Return copies of the rows numbered `first` to `last`."""
        slots = np.arange(first, last) % self.rows
        return {name: array[slots] for name, array in self._arrays.items()}

    def write(self, first: int, rows: dict[str, Array]) -> None:
        """Put back what `read` returned."""
        for name, values in rows.items():
            self._arrays[name][np.arange(first, first + len(values)) % self.rows] = values

    def load(self, rows: Rows) -> None:
        """Put back rows block by block."""
        for first in range(rows.start, rows.stop, BLOCK):
            self.write(first, rows.read(first, min(first + BLOCK, rows.stop)))
