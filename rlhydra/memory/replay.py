"""A replay memory: a preallocated ring of transitions; n-step, uniform or prioritised.

Transitions are kept as they came, one row a vector step; what depends on later rows (n-step
returns, successors, frame stacks) is found when sampling, by array operations on the whole batch.

Priorities: Schaul et al., 2016: P(i) = pᵢ / Σ p, pᵢ = (|δᵢ| + ε)^α, weight (1 / (M P(i)))^β
divided by the greatest weight. Deviation: that is the greatest in the memory, not in the batch, so
that the weight of a transition does not depend on its neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor

from rlhydra.memory.observations import Observations, stack_depth
from rlhydra.memory.ring import Ring, Rows
from rlhydra.memory.sum_tree import SumTree
from rlhydra.schema import ConfigError

if TYPE_CHECKING:
    from rlhydra.env.environment import Transition

Array = NDArray[Any]
Index = NDArray[np.int64]

TRUNCATED, TERMINATED = 1, 2  # how a row ended; 0: it did not


class Priority(NamedTuple):
    """Prioritised replay: transitions are drawn in proportion to (|td_error| + epsilon)^alpha."""

    alpha: float
    epsilon: float


class Batch(NamedTuple):
    """B transitions; `reward` + `discount` · value(`next_obs`) is the n-step target."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    discount: Tensor
    weight: Tensor
    index: Index  # pyright: ignore[reportIncompatibleMethodOverride] (tuple.index)


class Replay:
    """The last `capacity` transitions of `num_envs` environment copies.

    Args:
        capacity: in transitions, over all copies.
        num_envs: N.
        obs_space: of one copy; floats are kept as float32, every other type as it is.
        action_space: of one copy; discrete or box.
        n_step: rewards summed before bootstrapping, fewer where an episode ended.
        gamma: discount of one step.
        priority: None draws uniformly.
        generator: draws the batches.
        stacked: whether observations are stacks of frames (stack, H, W), kept as single frames;
            None: uint8 images with at most 16 channels in front are. An error costs only memory.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        obs_space: Box,
        action_space: Space[Any],
        *,
        n_step: int = 1,
        gamma: float,
        priority: Priority | None = None,
        generator: np.random.Generator,
        stacked: bool | None = None,
    ) -> None:
        if capacity < num_envs:
            raise ConfigError(
                "buffer_size", f"expected at least num_envs = {num_envs}, got {capacity}"
            )
        if priority and priority.epsilon <= 0:
            raise ConfigError("epsilon", f"expected a priority above 0, got {priority.epsilon}")
        self.capacity = capacity // num_envs * num_envs
        self._num_envs, self._n_step = num_envs, n_step
        self._window = capacity // num_envs  # rows to draw from
        stack = stack_depth(obs_space, stacked)
        # Beside them: unfinished n-step windows, the next row, older frames and the entries' marks.
        self._ring = self._window + n_step + stack + 1
        self._row = 0  # number of the next row
        self._arrays = ring = Ring(self._ring)
        self._obs = Observations(obs_space, stack, num_envs, ring)
        shape, dtype = action_space.shape or (), action_space.dtype or np.dtype(np.int64)
        dtype = np.float32 if np.issubdtype(dtype, np.floating) else np.int64
        self._action = ring.array("action", (num_envs, *shape), dtype)
        self._reward = ring.array("reward", (num_envs,), np.float32)
        self._end = ring.array("end", (num_envs,), np.uint8)
        self._action_list = self._action.reshape(-1, *shape)
        self._reward_list, self._end_list = self._reward.reshape(-1), self._end.reshape(-1)
        self._powers = np.power(gamma, np.arange(n_step + 1)).astype(np.float32)
        self._discounts = np.array([gamma, gamma, 0], np.float32)  # of one step, by how it ended
        self._copies = np.arange(num_envs)
        self._ended = np.zeros(num_envs, np.bool_)
        self._offsets = np.arange(n_step)[:, None] * num_envs
        self._generator = generator
        self._priority = priority
        self._tree = SumTree(self._ring * num_envs) if priority else None
        self._greatest = 1.0  # priority so far: what a new transition gets
        self._out = _Output(0, self._obs, self._action)

    def __len__(self) -> int:
        """How many transitions can be drawn."""
        return (self._complete - self._oldest) * self._num_envs

    def add(self, transition: Transition) -> None:
        """Write one vector step; the oldest one is forgotten when the memory is full."""
        slot = self._row % self._ring
        terminated, ended = transition.terminated, self._ended
        np.logical_or(terminated, transition.truncated, out=ended)
        self._row += 1
        self._action[slot] = transition.action
        self._reward[slot] = transition.reward
        np.add(terminated, ended, out=self._end[slot], dtype=np.uint8)
        self._obs.write(self._row - 1, transition.obs, transition.next_obs, ended, self._oldest)
        if self._tree is not None:
            self._rank(self._tree)

    def cut(self) -> None:
        """Truncate all running episodes here: the environments are about to start anew."""
        if self._row:
            last = self._end[(self._row - 1) % self._ring]
            np.maximum(last, TRUNCATED, out=last)
        self._obs.cut()

    def sample(self, batch_size: int, beta: float = 0.0) -> Batch:
        """Draw transitions with replacement, in proportion to their priorities or uniformly.

        `weight` is (least priority / priority)^`beta`: 1 without priorities. The tensors and the
        index are overwritten by the next call.
        """
        if not len(self):
            raise ValueError(
                f"Replay.sample: no complete {self._n_step}-step transition was added yet"
            )
        if len(self._out.index) != batch_size:
            self._out = _Output(batch_size, self._obs, self._action)
        out = self._out
        if self._tree is None:
            self._draw(out)
        else:
            out.index[:] = self._tree.sample(batch_size, self._generator)
            out.weight[:] = (self._tree.minimum / self._tree.priorities.take(out.index)) ** beta
        self._obs.read(out.index, out.obs)
        self._action_list.take(out.index, 0, out.action, "clip")
        last = self._one_step(out) if self._n_step == 1 else self._n_steps(out)
        self._obs.read_next(last, out.next_obs)
        return out.batch

    def update_priorities(self, index: Index, td_error: Array) -> None:
        """Set the priorities of drawn transitions; those forgotten since are left out."""
        assert self._tree is not None and self._priority is not None, "the memory is uniform"
        error = np.abs(np.asarray(td_error, np.float64))
        priority = (error + self._priority.epsilon) ** self._priority.alpha
        self._greatest = max(self._greatest, float(priority.max()))
        priority[self._tree.priorities.take(index) == 0] = 0
        self._tree.update(index, priority)

    def state(self) -> dict[str, Any]:
        """Return all that `load` needs; the rows are to be copied before the next `add`."""
        row, oldest = self._row, self._oldest
        last = max(0, row - 1)  # it may still be cut, or get another successor
        state: dict[str, Any] = {
            "row": row,
            "rows": Rows(min(last, max(0, oldest - self._obs.stack)), last, self._arrays.read),
            "last": self._arrays.read(last, row),
            "obs": self._obs.state(row, oldest),
            "generator": self._generator.bit_generator.state,
        }
        if self._tree is not None:
            used = min(row, self._ring) * self._num_envs
            state["priorities"] = self._tree.priorities[:used].copy()
            state["greatest"] = self._greatest
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned, in a memory of the same settings."""
        self._row = state["row"]
        self._arrays.load(state["rows"])
        self._arrays.write(state["rows"].stop, state["last"])
        self._obs.load(state["obs"], self._row)
        self._generator.bit_generator.state = state["generator"]
        if self._tree is not None:
            self._tree.fill(state["priorities"])
            self._greatest = state["greatest"]

    @property
    def _complete(self) -> int:
        return max(0, self._row - self._n_step + 1)

    @property
    def _oldest(self) -> int:
        return max(0, self._complete - self._window)

    def _rank(self, tree: SumTree) -> None:
        newest = self._complete - 1
        if newest < 0:
            return
        # Before the memory is full the row to forget is an unused slot ahead: its priority is 0.
        rows = np.array([[newest], [newest - self._window]])
        index = rows % self._ring * self._num_envs + self._copies
        tree.update(index.reshape(-1), np.repeat((self._greatest, 0.0), self._num_envs))

    def _draw(self, out: _Output) -> None:
        # Generator.integers takes several times as long for the few numbers of a batch.
        self._generator.random(out=out.uniform)
        np.multiply(out.uniform, len(self), out=out.uniform)
        out.index[:] = out.uniform  # cut to an integer before adding, which could round up
        out.index += self._oldest * self._num_envs
        np.remainder(out.index, self._ring * self._num_envs, out=out.index)

    def _one_step(self, out: _Output) -> Index:
        self._reward_list.take(out.index, 0, out.reward, "clip")
        self._discounts.take(self._end_list.take(out.index), 0, out.discount, "clip")
        return out.index

    def _n_steps(self, out: _Output) -> Index:
        window = out.index + self._offsets  # (n, B)
        end = self._end_list.take(window, mode="wrap")
        stop = end > 0
        stop[-1] = True
        last = stop.argmax(0)
        reward = self._reward_list.take(window, mode="wrap")
        reward *= self._powers[:-1, None]
        reward *= np.arange(self._n_step)[:, None] <= last
        reward.sum(0, out=out.reward)
        place = last * len(last) + np.arange(len(last))
        self._powers.take(last + 1, out=out.discount, mode="clip")
        out.discount *= end.take(place) != TERMINATED
        return window.take(place)


class _Output:
    """The arrays of a batch and the tensors that share their memory."""

    def __init__(self, size: int, obs: Observations, action: Array) -> None:
        self.obs = np.empty((size, *obs.shape), obs.dtype)
        self.next_obs = np.empty_like(self.obs)
        self.action = np.empty((size, *action.shape[2:]), action.dtype)
        self.reward = np.empty(size, np.float32)
        self.discount = np.empty(size, np.float32)
        self.weight = np.ones(size, np.float32)
        self.index = np.empty(size, np.int64)
        self.uniform = np.empty(size)
        self.batch = Batch(
            obs=torch.from_numpy(self.obs),
            action=torch.from_numpy(self.action),
            reward=torch.from_numpy(self.reward),
            next_obs=torch.from_numpy(self.next_obs),
            discount=torch.from_numpy(self.discount),
            weight=torch.from_numpy(self.weight),
            index=self.index,
        )
