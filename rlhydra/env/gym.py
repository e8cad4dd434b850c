"""Any Gymnasium environment, its copies stepped one after the other or each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
from gymnasium import Env, Space
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation, TransformObservation
from numpy.typing import NDArray

from rlhydra.config import EnvConfig
from rlhydra.env.environment import Array, Environment, Mask, Step
from rlhydra.schema import ConfigError, Positive


@dataclass(frozen=True)
class GymEnvironmentConfig(EnvConfig):
    """Settings of a Gymnasium environment."""

    reward_scale: Annotated[float, Positive]  # the learner sees rewards times this
    # sync where a step is cheap (2 to 6 times faster at 8 copies of CartPole, HalfCheetah or
    # LunarLander on 2 cores), async where it is slow and cores are free
    vectorisation: Literal["sync", "async"]


class GymEnvironment(Environment):
    """Copies of a registered environment; bounded box actions are given in [-1, 1] and rescaled."""

    def __init__(
        self,
        cfg: GymEnvironmentConfig,
        num_envs: int,
        seed: np.random.SeedSequence,
        *,
        training: bool = True,
        threads: int = 1,
    ) -> None:
        """Make `num_envs` copies; `training=False` adds `eval_kwargs`. `threads` is of no use here."""
        makers: list[Callable[[], Env[Any, Any]]] = [
            lambda: make(cfg, training=training) for _ in range(num_envs)
        ]
        if cfg.vectorisation == "sync":
            self._copies = SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.DISABLED)
        else:
            self._copies = AsyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.DISABLED)
        obs_space = self._copies.single_observation_space
        if not isinstance(obs_space, Box):
            raise ConfigError("env.id", f"{cfg.id} has no usable observations: {obs_space}")
        action_space = self._copies.single_action_space
        super().__init__(num_envs, _float32(obs_space), _agents_space(cfg, action_space), seed)
        self._reward_scale = cfg.reward_scale
        self._to_native = _native_actions(action_space)

    @classmethod
    def spaces(cls, cfg: GymEnvironmentConfig) -> tuple[Box, Space[Any]]:
        """Make one copy to see its spaces."""
        env = make(cfg)
        try:
            return _float32(env.observation_space), _agents_space(cfg, env.action_space)
        finally:
            env.close()

    def _advance(self, action: Array) -> Step:
        obs, reward, terminated, truncated, _ = self._copies.step(self._to_native(action))
        return Step(obs, reward, terminated.copy(), truncated & ~terminated, terminated | truncated)

    def _restart(self, over: Mask, seeds: NDArray[np.int64] | None) -> Array:
        per_copy: list[int | None] = [None] * self.num_envs
        if seeds is not None:
            for copy, seed in zip(np.flatnonzero(over), seeds, strict=True):
                per_copy[copy] = int(seed)
        obs, _ = self._copies.reset(seed=per_copy, options={"reset_mask": over})
        return obs

    def learner_reward(self, reward: Array) -> NDArray[np.float32]:
        """Return the rewards times `reward_scale`."""
        return (reward * self._reward_scale).astype(np.float32)

    def close(self) -> None:
        """Close every copy."""
        self._copies.close()


def make(
    cfg: GymEnvironmentConfig, *, training: bool = True, render_mode: str | None = None
) -> Env[Any, Any]:
    """Make one copy whose observations are a float32 vector or a uint8 image, channels first.

    Raises:
        ConfigError: where Gymnasium cannot make it.
    """
    kwargs = {**cfg.kwargs, **({} if training else cfg.eval_kwargs)}
    limit = {} if cfg.max_t is None else {"max_episode_steps": cfg.max_t}
    try:
        env: Env[Any, Any] = gymnasium.make(
            cfg.id, disable_env_checker=True, render_mode=render_mode, **limit, **kwargs
        )
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError("env.id", f"{cfg.id} cannot be made: {reason}") from error
    space = env.observation_space
    if not isinstance(space, Box):
        return FlattenObservation(env)
    if _is_channels_last(space):
        first = Box(0, 255, (space.shape[2], *space.shape[:2]), np.uint8)
        return TransformObservation(env, lambda obs: np.moveaxis(obs, 2, 0), first)
    return env if len(space.shape) in (1, 3) else FlattenObservation(env)


def _is_channels_last(space: Box) -> bool:
    shape = space.shape
    return space.dtype == np.uint8 and len(shape) == 3 and shape[2] <= 4 < min(shape[:2])


def _float32(space: Space[Any]) -> Box:
    assert isinstance(space, Box)
    if space.dtype == np.uint8 and len(space.shape) == 3:
        return space
    return Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)


def _agents_space(cfg: GymEnvironmentConfig, space: Space[Any]) -> Space[Any]:
    """Return the action space as the agent sees it: counted from 0, bounded boxes as [-1, 1]."""
    if isinstance(space, Discrete):
        return Discrete(int(space.n))
    if isinstance(space, MultiDiscrete) and space.nvec.ndim == 1:
        return MultiDiscrete(space.nvec)
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating) and len(space.shape) == 1:
        return Box(-1, 1, space.shape, np.float32) if space.is_bounded() else space
    raise ConfigError(
        "env.id",
        f"{cfg.id} has actions of {space}; expected Discrete, MultiDiscrete or a vector Box",
    )


def _native_actions(space: Space[Any]) -> Callable[[Array], Array]:
    """Return the map from an agent's actions to the environment's own."""
    if isinstance(space, (Discrete, MultiDiscrete)):
        start = space.start
        return (lambda action: action + start) if np.any(start) else (lambda action: action)
    assert isinstance(space, Box)
    if not space.is_bounded():
        return lambda action: action
    low, high = space.low, space.high
    half = (high - low) / 2
    return lambda action: np.clip(low + (action + 1) * half, low, high)
