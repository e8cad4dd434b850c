"""Environments made by hand, whose every number is known, and broken ones."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Counting(gymnasium.Env[Any, Any]):
    """Observes (game, frame, last action); frame t is worth t; game g has `length` + g frames."""

    observation_space = Box(-1, np.inf, (3,), np.float32)
    action_space = Discrete(5)

    def __init__(self, length: int = 3) -> None:
        self.length = length
        self.game = -1
        self.frame = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.game = 0 if seed is not None else self.game + 1
        self.frame = 0
        return np.array([self.game, 0, -1], np.float32), {}

    def step(self, action: Any) -> Any:
        self.frame += 1
        obs = np.array([self.game, self.frame, action], np.float32)
        return obs, float(self.frame), self.frame >= self.length + self.game, False, {}


class Drifting(Counting):
    """Counts its games over all environments of the process: none is restored exactly."""

    games = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        _, info = super().reset(seed=seed)
        Drifting.games += 1
        self.number = Drifting.games
        self.game = self.number % 7  # games have different lengths
        return np.array([self.number, 0, -1], np.float32), info

    def step(self, action: Any) -> Any:
        obs, *more = super().step(action)
        obs[0] = self.number
        return obs, *more


class Broken(gymnasium.Env[Any, Any]):
    """Does one thing wrong in its third step."""

    observation_space = Box(-1, 1, (4,), np.float32)
    action_space = Discrete(2)

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.frame = 0
        if fault == "constructor":
            raise RuntimeError("no licence found")

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if self.fault == "reset":
            raise KeyError("level")
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> Any:
        self.frame += 1
        result: list[Any] = [np.zeros(4, np.float32), 1.0, False, False, {}]
        if self.frame == 3 and action == 1:
            if self.fault == "raise":
                raise ValueError("the motor\nis on fire")
            result[:2] = FAULTS.get(self.fault, result[:2])
            if self.fault == "old":
                result.pop(3)
        return tuple(result)


NAN = np.array([0, 0, np.nan, 0], np.float32)
FAULTS = {
    "nan": (NAN, 1.0),
    "shape": (np.zeros(5, np.float32), 1.0),
    "scalar": (np.float32(0.5), 1.0),
    "none": (None, 1.0),
    "text": (["a", "b", "c", "d"], 1.0),
    "reward": (np.zeros(4, np.float32), np.nan),
    "rewards": (np.zeros(4, np.float32), np.ones(2)),
}


class Fixed(gymnasium.Env[Any, Any]):
    """Has any spaces; its observations are samples."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self.actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.actions.append(np.copy(action))
        return self.observation_space.sample(), 0.0, False, False, {}


gymnasium.register("Counting-v0", entry_point=Counting)
gymnasium.register("Drifting-v0", entry_point=Drifting)
gymnasium.register("Broken-v0", entry_point=Broken)
gymnasium.register("Fixed-v0", entry_point=Fixed)
