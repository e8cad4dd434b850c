"""The uniformly random policy: learns nothing, and is the baseline of every metric."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor

from rlhydra.agent.agent import Agent, Array
from rlhydra.clock import Clock
from rlhydra.config import AgentConfig
from rlhydra.env.environment import Transition


@dataclass(frozen=True)
class RandomConfig(AgentConfig):
    """A random policy has no settings."""

    actions: ClassVar = ("discrete", "multidiscrete", "box")


class Random(Agent):
    """Draws every action anew, whatever it sees."""

    def __init__(
        self,
        cfg: RandomConfig,
        obs_space: Box,
        action_space: Space[Any],
        num_envs: int,
        seed: np.random.SeedSequence,
        device: torch.device,
    ) -> None:
        super().__init__(obs_space, action_space, num_envs, seed, device)
        self.cfg = cfg

    def act(self, obs: Array) -> Array:
        """Draw an action for each copy."""
        return uniform(self.action_space, len(obs), self.rng)

    def observe(self, transition: Transition) -> None:
        """Remember nothing."""

    def update(self, clock: Clock) -> dict[str, float]:
        """Learn nothing."""
        return {}

    def play(
        self, obs: Array, memory: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Array, Tensor | None]:
        """Draw actions; without a `generator` the observations stand in for one."""
        seed = zlib.crc32(obs.tobytes())
        if generator is not None:
            seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        return uniform(self.action_space, len(obs), np.random.default_rng(seed)), memory

    def weights(self) -> dict[str, Any]:
        """Return nothing: there is nothing to know."""
        return {}

    def load_weights(self, weights: dict[str, Any]) -> None:
        """Take over nothing."""

    def state(self) -> dict[str, Any]:
        """Return the stream of actions."""
        return self.streams()

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.load_streams(state)


def uniform(space: Space[Any], count: int, rng: np.random.Generator) -> Array:
    """Draw `count` actions; where a box has no bounds, standard normal ones."""
    if isinstance(space, Discrete):
        return rng.integers(int(space.n), size=count)
    if isinstance(space, MultiDiscrete):
        return rng.integers(space.nvec, size=(count, len(space.nvec)))
    assert isinstance(space, Box)
    shape = (count, *space.shape)
    if not space.is_bounded():
        return rng.standard_normal(shape, np.float32)
    return rng.uniform(space.low, space.high, shape).astype(np.float32)
