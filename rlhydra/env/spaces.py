"""How an agent sees a Gymnasium environment's observations and actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from gymnasium import Env, Space
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.wrappers import FlattenObservation, TransformObservation

from rlhydra.env.environment import Array
from rlhydra.schema import ConfigError


def observed(env: Env[Any, Any]) -> Env[Any, Any]:
    """Turn observations into a vector, or an image with its channels first."""
    space = env.observation_space
    if not isinstance(space, Box):
        return FlattenObservation(env)
    shape = space.shape
    if len(shape) == 2 and space.dtype == np.uint8:
        return _rearranged(env, space, lambda image: image[None])
    if len(shape) == 3 and shape[2] <= 4 < min(shape[:2]):
        return _rearranged(env, space, lambda image: np.moveaxis(image, 2, 0))
    return env if len(shape) in (1, 3) else FlattenObservation(env)


def _rearranged(env: Env[Any, Any], space: Box, turn: Callable[[Array], Array]) -> Env[Any, Any]:
    low, high = turn(space.low), turn(space.high)
    return TransformObservation(env, turn, Box(low, high, dtype=cast("Any", space.dtype)))


def seen_space(name: str, space: Space[Any]) -> Box:
    """Return the observation space as the agent sees it: images of bytes, or float32.

    Raises:
        ConfigError: where it does not flatten to a vector.
    """
    if not isinstance(space, Box):
        problem = f"{name} has observations of {space}, which do not flatten to a vector"
        raise ConfigError("env.id", problem)
    if space.dtype == np.uint8 and len(space.shape) == 3:
        return space
    return Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)


def agents_space(name: str, space: Space[Any]) -> Space[Any]:
    """Return the action space as the agent sees it: counted from 0, bounded boxes as [-1, 1].

    Raises:
        ConfigError: where no agent can use it.
    """
    if isinstance(space, Discrete):
        return Discrete(int(space.n))
    if isinstance(space, MultiDiscrete) and space.nvec.ndim == 1:
        return MultiDiscrete(space.nvec)
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating) and len(space.shape) == 1:
        return Box(-1, 1, space.shape, np.float32) if space.is_bounded() else space
    raise ConfigError(
        "env.id",
        f"{name} has actions of {space}; expected Discrete, MultiDiscrete or a vector Box",
    )


def native_actions(space: Space[Any]) -> Callable[[Array], Array]:
    """Return the map from an agent's actions to the environment's own."""
    if isinstance(space, (Discrete, MultiDiscrete)):
        start, dtype = space.start, cast("Any", space.dtype)
        if np.any(start):
            return lambda action: (action + start).astype(dtype, copy=False)
        return lambda action: action.astype(dtype, copy=False)
    assert isinstance(space, Box)
    if not space.is_bounded():
        return lambda action: action.copy()  # an environment may write into its action
    low, high = space.low, space.high
    half = (high - low) / 2
    middle = low + half

    def rescale(action: Array) -> Array:
        native = action * half
        native += middle
        np.maximum(native, low, out=native)
        return np.minimum(native, high, out=native)

    return rescale
