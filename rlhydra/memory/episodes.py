"""Whole episodes, cut from the stream of vector steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhydra.env.environment import Transition

Array = NDArray[Any]


class Episode(NamedTuple):
    """One episode of T steps of one copy."""

    obs: Array  # (T + 1, ...), with the true last one
    action: Array  # (T, ...)
    reward: NDArray[np.float32]  # (T,)
    terminated: bool  # or truncated


class Episodes:
    """Keeps the steps of unfinished episodes, and hands out an episode when it has ended."""

    def __init__(self, num_envs: int) -> None:
        self._steps: list[tuple[Array, Array, Array]] = []  # obs, action, reward, each (N, ...)
        self._starts = np.zeros(num_envs, np.int64)  # where each copy's episode begins in `_steps`

    def add(self, transition: Transition) -> list[Episode]:
        """Copy one vector step in; return the episodes that ended with it."""
        step = (transition.obs, transition.action, transition.reward)
        self._steps.append((step[0].copy(), step[1].copy(), step[2].copy()))
        ended = np.flatnonzero(transition.terminated | transition.truncated)
        if not len(ended):
            return []
        finished = [self._episode(int(copy), transition) for copy in ended]
        self._starts[ended] = len(self._steps)
        unneeded = int(self._starts.min())
        del self._steps[:unneeded]
        self._starts -= unneeded
        return finished

    def _episode(self, copy: int, last: Transition) -> Episode:
        steps = self._steps[self._starts[copy] :]
        return Episode(
            np.stack([*(obs[copy] for obs, _, _ in steps), last.next_obs[copy]]),
            np.stack([action[copy] for _, action, _ in steps]),
            np.array([reward[copy] for _, _, reward in steps], np.float32),
            bool(last.terminated[copy]),
        )

    def clear(self) -> None:
        """Forget the unfinished episodes."""
        self._steps.clear()
        self._starts[:] = 0

    def state(self) -> dict[str, Any]:
        """Return the steps of the unfinished episodes."""
        columns = [np.stack(column) for column in zip(*self._steps, strict=True)]
        return {"steps": columns, "starts": self._starts.copy()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over the steps of `state`."""
        self._steps = list(zip(*state["steps"], strict=True))
        self._starts[:] = state["starts"]
