"""The arrays of a ring, in memory or in memory-mapped files that a checkpoint need not copy."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rlhydra.schema import ConfigError

Array = NDArray[Any]


class Storage:
    """Named arrays whose leading axis is the ring's rows; with a `folder` each is a file in it."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._arrays: dict[str, Array] = {}
        self._files: list[np.memmap[Any, Any]] = []
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Return a new array, zeros in memory; a file that exists keeps its content.

        Raises:
            ConfigError: when the file was made for a ring of other dimensions.
        """
        if self.folder is None:
            array = np.zeros(shape, dtype)
        else:
            path = self.folder / f"{name}.ring"
            reserve(path, int(np.prod(shape)) * np.dtype(dtype).itemsize)
            self._files.append(np.memmap(path, dtype, "r+", shape=shape))
            array = self._files[-1].view(np.ndarray)  # slices of a memmap cost twice as much
        self._arrays[name] = array
        return array

    def state(self, rows: int) -> dict[str, Array]:
        """Return copies of the first `rows` rows of each array; files are flushed, not copied."""
        for file in self._files:
            file.flush()
        if self.folder is not None:
            return {}
        return {name: array[:rows].copy() for name, array in self._arrays.items()}

    def load(self, state: dict[str, Array]) -> None:
        """Put back what `state` returned."""
        for name, rows in state.items():
            self._arrays[name][: len(rows)] = rows


def reserve(path: Path, size: int) -> None:
    """Create a file of `size` bytes with its disk space taken, unless it exists."""
    if path.exists():
        if path.stat().st_size != size:
            raise ConfigError(
                str(path),
                f"expected {size} bytes, got {path.stat().st_size}: it belongs to a replay memory "
                "of another size; delete it to begin anew",
            )
        return
    with path.open("wb") as file:
        if sys.platform == "linux":
            # A full disk is an error here; under a mapped hole it would be a SIGBUS while training.
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
