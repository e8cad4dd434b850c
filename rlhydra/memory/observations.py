"""The observations of a replay ring, each stored once: successors and stacks found by index."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from rlhydra.memory.ring import BLOCK, Ring, Rows

Array = NDArray[Any]
Index = NDArray[np.int64]

MAX_STACK = 16  # an image of more channels is not a stack of frames


def stack_depth(space: Box, stacked: bool | None) -> int:
    """Return how many frames an observation stacks, 1 for none; None guesses from the shape."""
    if stacked is None:
        stacked = space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[0] <= MAX_STACK
    return space.shape[0] if stacked else 1


class Observations:
    """A ring of rows of N observations, written in time order, read by flat index (row · N + copy).

    The successor of a row is the next row, and a frame stack is its newest frame with those of the
    rows before it. What does not fit, the final observation of an episode and the first stack of
    the next, is kept whole in a side table. That is found by comparing, so whatever was written is
    read back exactly: observations that look like stacks and are not only cost more memory.
    """

    def __init__(self, space: Box, stack: int, num_envs: int, ring: Ring) -> None:
        self.shape = space.shape
        floating = np.issubdtype(space.dtype, np.floating)
        self.dtype = np.dtype(np.float32) if floating else np.dtype(space.dtype)
        self.stack = stack
        self._frame = space.shape[1:] if stack > 1 else space.shape
        self._rows, self._num_envs = ring.rows, num_envs
        self._frames = ring.array("frames", (num_envs, *self._frame), self.dtype)
        self._frame_list = self._frames.reshape(-1, *self._frame)
        # Of each row: its successor's entry in the side table, or -1 where that is the next row.
        self._exit = ring.array("exit", (num_envs,), np.int64)
        self._exit_list = self._exit.reshape(-1)
        # Of each row: how many entries there were after it was written.
        self._mark = ring.array("mark", (), np.int64)
        # Entries are numbered in time order; number e lies at e % len(table), old ones are dropped.
        self._table = np.zeros((max(64, 2 * num_envs), self.stack, *self._frame), self.dtype)
        self._low = self._high = 0
        self._open = np.ones(num_envs, np.bool_)  # the next row may not follow the last one
        self._ahead = [self._frames]  # where the row after the last is written already
        if self.stack > 1:
            # Of each row: the rows before it that its stack continues (up to stack - 1), and, where
            # that is 0, the entry of its stack.
            self._age = ring.array("age", (num_envs,), np.uint8)
            self._start = ring.array("start", (num_envs,), np.int64)
            self._ahead += [self._age, self._start]
            self._lags = np.arange(self.stack - 1, -1, -1, dtype=np.uint8)
            self._steps = self._lags.astype(np.int64) * num_envs

    def write(
        self, row: int, obs: Array, next_obs: Array, ended: NDArray[np.bool_], oldest: int
    ) -> None:
        """Write row number `row`; the row after it holds `next_obs` until it is written itself.

        Where the episode has not `ended`, the next call's `obs` must be this one's `next_obs`.
        Rows below number `oldest` will not be read again.
        """
        slot, after = row % self._rows, (row + 1) % self._rows
        if np.count_nonzero(self._open):
            self._begin(row, obs, oldest)
        self._exit[slot] = -1
        self._frames[after] = next_obs if self.stack == 1 else next_obs[:, -1]
        if self.stack > 1:
            self._shift(slot, after, obs, next_obs, oldest)
        self._mark[slot] = self._high
        self._open[:] = ended

    def cut(self) -> None:
        """Let the next row begin anew in every copy."""
        self._open[:] = True

    def read(self, index: Index, out: Array) -> None:
        """Write the observations at `index`, taken modulo the ring, into `out`."""
        if self.stack == 1:
            self._frame_list.take(index, 0, out, "wrap")
            return
        self._frame_list.take(index[:, None] - self._steps, 0, out, "wrap")
        age = self._age.reshape(-1).take(index, mode="wrap")
        foreign = self._lags > age[:, None]  # frames from before the first row of an episode
        if np.count_nonzero(foreign):
            sample, position = foreign.nonzero()
            since = age[sample].astype(np.int64)
            first = index[sample] - since * self._num_envs
            entry = self._start.reshape(-1).take(first, mode="wrap")
            out[sample, position] = self._table[entry % len(self._table), position + since]

    def read_next(self, index: Index, out: Array) -> None:
        """Write the successors of the observations at `index` into `out`."""
        self.read(index + self._num_envs, out)
        exits = self._exit_list.take(index, mode="wrap")
        left = exits >= 0
        if np.count_nonzero(left):
            entries = self._table[exits[left] % len(self._table)]
            out[left] = entries.reshape(-1, *self.shape)

    def state(self, row: int, oldest: int) -> dict[str, Any]:
        """Return what the ring's rows below `row` do not hold; those below `oldest` are done."""
        self._drop(oldest)
        return {
            "entries": Rows(self._low, self._high, self._entries),
            "open": self._open.copy(),
            "next": [array[row % self._rows].copy() for array in self._ahead],
        }

    def load(self, state: dict[str, Any], row: int) -> None:
        """Continue from `state`, after the ring's rows below `row` were put back."""
        for array, values in zip(self._ahead, state["next"], strict=True):
            array[row % self._rows] = values
        entries: Rows = state["entries"]
        self._low, self._high = entries.start, entries.stop
        live = self._high - self._low
        if live > len(self._table):
            self._table = np.zeros((live + live // 2, *self._table.shape[1:]), self.dtype)
        for first in range(self._low, self._high, BLOCK):
            values = entries.read(first, min(first + BLOCK, self._high))["table"]
            self._table[np.arange(first, first + len(values)) % len(self._table)] = values
        self._open[:] = state["open"]

    def _entries(self, first: int, last: int) -> dict[str, Array]:
        return {"table": self._table[np.arange(first, last) % len(self._table)]}

    def _begin(self, row: int, obs: Array, oldest: int) -> None:
        slot = row % self._rows
        if row == 0 and self.stack > 1:  # nothing came before: an entry of zeros
            self._start[0] = self._remember(self._table[: self._num_envs], oldest)
        copies = self._open.nonzero()[0]
        start = obs[copies].astype(self.dtype)
        final = np.empty_like(start)
        self.read(slot * self._num_envs + copies, final)
        # After a mere life loss the game's frames go on: nothing to keep.
        moved = (start != final).reshape(len(copies), -1).any(1)
        copies, start, final = copies[moved], start[moved], final[moved]
        if not len(copies):
            return
        self._exit[slot - 1, copies] = self._remember(final, oldest)
        if self.stack == 1:
            self._frames[slot, copies] = start
        else:
            self._frames[slot, copies] = start[:, -1]
            self._start[slot, copies] = self._remember(start, oldest)
            self._age[slot, copies] = 0

    def _shift(self, slot: int, after: int, obs: Array, next_obs: Array, oldest: int) -> None:
        np.minimum(self._age[slot] + 1, self.stack - 1, out=self._age[after], casting="unsafe")
        self._start[after] = -1  # not what an older row left here
        if not np.array_equal(next_obs[:, :-1], obs[:, 1:]):
            wrong = (next_obs[:, :-1] != obs[:, 1:]).reshape(self._num_envs, -1).any(1)
            self._age[after, wrong] = 0
            self._start[after, wrong] = self._remember(next_obs[wrong], oldest)

    def _remember(self, obs: Array, oldest: int) -> Index:
        count = len(obs)
        if self._high + count - self._low > len(self._table):
            self._drop(oldest)
            if self._high + count - self._low > len(self._table):
                self._grow(count)
        entry = np.arange(self._high, self._high + count)
        self._table[entry % len(self._table)] = obs.reshape(count, *self._table.shape[1:])
        self._high += count
        return entry

    def _drop(self, oldest: int) -> None:
        # What was remembered in writing row t serves rows t - 1 to t + stack - 1.
        last = oldest - self.stack
        self._low = int(self._mark[last % self._rows]) if last >= 0 else 0

    def _grow(self, count: int) -> None:
        live = np.arange(self._low, self._high)
        size = len(self._table)
        table = np.zeros((size + size // 2 + count, *self._table.shape[1:]), self.dtype)
        table[live % len(table)] = self._table[live % size]
        self._table = table
