"""The actions of each environment copy since its last seeded reset."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Discrete
from numpy.typing import NDArray


class History:
    """A ring of vector actions, long enough for the copy that was seeded longest ago."""

    def __init__(self, num_envs: int, action_space: Space[Any], capacity: int = 1024) -> None:
        small = isinstance(action_space, Discrete) and action_space.n <= 256
        dtype = np.uint8 if small else action_space.dtype
        self._actions = np.zeros((capacity, num_envs, *(action_space.shape or ())), dtype)
        self._now = 0  # vector steps so far
        self._since = np.zeros(num_envs, np.int64)  # the step of each copy's last seeding

    def add(self, action: NDArray[Any]) -> None:
        """Append one vector action (N, ...)."""
        capacity = len(self._actions)
        if self._now - self._since.min() >= capacity:
            self._grow()
            capacity = len(self._actions)
        self._actions[self._now % capacity] = action
        self._now += 1

    def lengths(self) -> NDArray[np.int64]:
        """Return for each copy the number of actions since its seeding (N,)."""
        return self._now - self._since

    def forget(self, copies: NDArray[np.bool_]) -> None:
        """Let the histories of `copies` begin here."""
        self._since[copies] = self._now

    def back(self, steps: int) -> NDArray[Any]:
        """Return the vector action that was added `steps` ago, 1 being the last."""
        return self._actions[(self._now - steps) % len(self._actions)]

    def state(self) -> dict[str, Any]:
        """Return the actions still needed, oldest first."""
        lengths = self.lengths()
        longest = int(lengths.max())
        steps = np.arange(self._now - longest, self._now) % len(self._actions)
        return {"actions": self._actions[steps], "lengths": lengths}

    def load(self, state: dict[str, Any]) -> None:
        """Take over the histories of `state`."""
        actions = state["actions"]
        while len(self._actions) <= len(actions):
            self._grow()
        self._now = len(actions)
        self._actions[: self._now] = actions
        self._since[:] = self._now - state["lengths"]

    def _grow(self) -> None:
        """Double the ring, oldest action first."""
        capacity = len(self._actions)
        ordered = np.roll(self._actions, -(self._now % capacity), axis=0)
        oldest = self._now - capacity
        self._actions = np.concatenate([ordered, np.zeros_like(ordered)])
        if oldest > 0:
            self._now -= oldest
            self._since -= oldest
