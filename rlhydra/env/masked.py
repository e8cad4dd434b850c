"""Gymnasium's CartPole without its velocities: a policy must remember to balance it."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium import Env
from gymnasium.wrappers import TransformObservation

POSITIONS = [0, 2]  # of the cart and of the pole


def make(**kwargs: Any) -> Env[Any, Any]:
    """Make a CartPole that shows where cart and pole are, not how they move."""
    env = gymnasium.make("CartPole-v1", disable_env_checker=True, max_episode_steps=-1, **kwargs)
    space: Any = env.observation_space
    seen = gymnasium.spaces.Box(space.low[POSITIONS], space.high[POSITIONS])
    return TransformObservation(env, lambda obs: obs[POSITIONS], seen)


gymnasium.register("MaskedCartPole-v1", entry_point=make, max_episode_steps=500)
