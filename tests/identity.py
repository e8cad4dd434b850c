"""Environments whose whole task is to give back what is seen, and the session's loop without files.

An agent that learns at all learns them in seconds; one whose data are shifted by a step never does.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from rlhydra.agent.agent import Agent
from rlhydra.build import build
from rlhydra.clock import Clock
from rlhydra.config import parse
from rlhydra.env.environment import Environment
from tests.conftest import composed

LENGTH = 10  # frames of an episode, which is truncated then


class Identity(gymnasium.Env[Any, Any]):
    """Shows a random symbol (one-hot); naming it is worth 1, so an episode at best `LENGTH`."""

    def __init__(self, choices: tuple[int, ...] = (3,)) -> None:
        self.choices = choices
        self.observation_space = Box(0, 1, (sum(choices),), np.float32)
        self.action_space = Discrete(choices[0]) if len(choices) == 1 else MultiDiscrete(choices)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._show(), {}

    def step(self, action: Any) -> Any:
        reward = float(np.mean(np.equal(action, self._symbols)))
        return self._show(), reward, False, False, {}

    def _show(self) -> Any:
        self._symbols = np.array([self.np_random.integers(n) for n in self.choices])
        return np.concatenate(
            [np.eye(n)[s] for n, s in zip(self.choices, self._symbols, strict=True)]
        )


class BoxIdentity(Identity):
    """Shows a number in [-1, 1]; the reward is 1 minus the action's squared error."""

    def __init__(self) -> None:
        self.observation_space = self.action_space = Box(-1, 1, (1,), np.float32)

    def step(self, action: Any) -> Any:
        reward = 1 - float(np.square(np.asarray(action) - self._number).sum())
        return self._show(), reward, False, False, {}

    def _show(self) -> Any:
        self._number = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self._number


for name, kwargs in (
    ("Discrete", {"choices": (3,)}),
    ("MultiDiscrete", {"choices": (3, 2)}),
):
    gymnasium.register(f"Identity{name}-v0", Identity, max_episode_steps=LENGTH, kwargs=kwargs)
gymnasium.register("IdentityBox-v0", BoxIdentity, max_episode_steps=LENGTH)


class Loop:
    """The session's loop, step by step, without its files."""

    def __init__(self, *overrides: str, seed: int = 0) -> None:
        self.config = parse(composed(f"seed={seed}", *overrides))
        self.agent: Agent
        self.env: Environment
        self.agent, self.env = build(self.config, 0, 1)
        self.clock = Clock(self.config.env.max_frame)
        self.obs = self.env.reset()
        self.returns: list[float] = []
        self.learned: list[dict[str, float]] = []

    def step(self) -> dict[str, float]:
        """Go one vector step; return what `update` returned."""
        transition, self.obs = self.env.step(self.agent.act(self.obs))
        self.agent.observe(transition)
        self.clock.tick(self.env.num_envs)
        self.returns += [game.true_return for game in self.env.games]
        metrics = self.agent.update(self.clock)
        if metrics:
            self.learned.append(metrics)
        return metrics

    def run(self, frames: int | None = None) -> float:
        """Go on for `frames`, or to the end; return the mean of the last 50 returns."""
        end = self.clock.max_frame if frames is None else self.clock.frame + frames
        while self.clock.frame < end:
            self.step()
        return float(np.mean(self.returns[-50:])) if self.returns else float("nan")


def on_identity(kind: str, frames: int) -> tuple[str, ...]:
    """Return the overrides that select an identity environment."""
    return ("env=gym", f"env.id=Identity{kind}-v0", f"env.max_frame={frames}")
