"""A sum tree over arrays: draws indices in proportion to their priorities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Index = NDArray[np.int64]

# Each numpy call on a batch costs about a microsecond whatever it does, so few wide levels
# beat the twenty of a binary tree; the top level is scanned whole.
WIDTH = 32
TOP = 4096
BELOW_ONE = 1 - 2.0**-52


class SumTree:
    """Priorities >= 0 of `capacity` indices, with their sum and the least positive one.

    A parent is always the sum of its children in one order: the tree follows from its leaves alone.
    """

    def __init__(self, capacity: int) -> None:
        sizes = [_padded(capacity)]
        while sizes[-1] > TOP:
            sizes.append(_padded(sizes[-1] // WIDTH))
        self._sums = [np.zeros(size) for size in sizes]
        self._minima = [np.full(size, np.inf) for size in sizes]  # of the positive priorities
        self._prefix = np.zeros(sizes[-1] + 1)
        self._capacity = capacity

    @property
    def total(self) -> float:
        """The sum of all priorities."""
        return float(self._sums[-1].cumsum()[-1])

    @property
    def minimum(self) -> float:
        """The least positive priority; inf when there is none."""
        return float(self._minima[-1].min())

    @property
    def priorities(self) -> Array:
        """The priority of each index: a view, to be read only."""
        return self._sums[0][: self._capacity]

    def update(self, index: Index, priority: Array) -> None:
        """Set priorities; of a repeated index the last one counts."""
        self._sums[0][index] = priority
        # Read back, because of repeated indices.
        leaf = self._sums[0].take(index)
        self._minima[0][index] = np.where(leaf > 0, leaf, np.inf)
        for level in range(1, len(self._sums)):
            index = index // WIDTH
            sums = self._sums[level - 1].reshape(-1, WIDTH).take(index, 0)
            self._sums[level][index] = sums.sum(1)
            minima = self._minima[level - 1].reshape(-1, WIDTH).take(index, 0)
            self._minima[level][index] = minima.min(1)

    def sample(self, count: int, generator: np.random.Generator) -> Index:
        """Draw `count` indices, one from each of as many equal parts of the total."""
        np.cumsum(self._sums[-1], out=self._prefix[1:])
        total = self._prefix[-1]
        rows = np.arange(count)
        target = (rows + generator.random(count)) * (total / count)
        np.minimum(target, total * BELOW_ONE, out=target)
        index = self._prefix[1:].searchsorted(target, "right")
        target -= self._prefix[index]
        rows *= WIDTH
        for sums in self._sums[-2::-1]:
            children = sums.reshape(-1, WIDTH).take(index, 0)
            cumulated = children.cumsum(1)
            # Rounding may have left a target just outside; a child of priority 0 must not be hit.
            np.maximum(target, 0, out=target)
            np.minimum(target, cumulated[:, -1] * BELOW_ONE, out=target)
            child = (cumulated > target[:, None]).argmax(1)
            place = rows + child
            target -= cumulated.take(place)
            target += children.take(place)
            index = index * WIDTH + child
        return index

    def fill(self, priorities: Array) -> None:
        """Set the priorities of the first indices and of no others."""
        for sums, minima in zip(self._sums, self._minima, strict=True):
            sums[:], minima[:] = 0, np.inf
        self._sums[0][: len(priorities)] = priorities
        self._minima[0][: len(priorities)] = np.where(priorities > 0, priorities, np.inf)
        for level in range(1, len(self._sums)):
            blocks = len(self._sums[level - 1]) // WIDTH
            self._sums[level][:blocks] = self._sums[level - 1].reshape(-1, WIDTH).sum(1)
            self._minima[level][:blocks] = self._minima[level - 1].reshape(-1, WIDTH).min(1)


def _padded(size: int) -> int:
    return -(-size // WIDTH) * WIDTH
