"""Any Gymnasium environment, its copies in a loop or each in a process of its own."""

from __future__ import annotations

import importlib
import logging
import math
import sys
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, cast

import gymnasium
import numpy as np
from gymnasium import Env, Space
from gymnasium.spaces import Box
from gymnasium.wrappers import FlattenObservation, OrderEnforcing, TimeLimit, TransformObservation
from numpy.typing import NDArray

from rlhydra.config import EnvConfig
from rlhydra.env.copies import (
    AsyncCopies,
    Copies,
    Maker,
    Rebuilt,
    SyncCopies,
    described,
    wrong_shape,
)
from rlhydra.env.environment import Array, BrokenEnvironmentError, Environment, Step
from rlhydra.env.spaces import agents_space, native_actions, observed, seen_space
from rlhydra.schema import ConfigError, Positive
from rlhydra.targets import check_registers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GymEnvironmentConfig(EnvConfig):
    """Settings of a Gymnasium environment."""

    reward_scale: Annotated[float, Positive]  # the learner sees rewards times this
    # sync where a step is cheap (2 to 6 times faster at 8 copies of CartPole, HalfCheetah or
    # LunarLander on 2 cores), async where it is slow and cores are free
    vectorisation: Literal["sync", "async"]
    rebuild: bool  # seeded resets make a copy anew, where games leave traces in a used one


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
        """Make `num_envs` copies; `training=False` adds `eval_kwargs`; `threads` is unused."""
        probe = make(cfg, training=training)
        obs_space = seen_space(cfg.id, probe.observation_space)
        action_space = agents_space(cfg.id, probe.action_space)
        super().__init__(cfg.id, num_envs, obs_space, action_space, seed)
        self._to_native = native_actions(probe.action_space)
        # In this process the frames of a game are counted here: without the two outer wrappers a
        # step of CartPole takes 7 % less.
        self._limit = None if cfg.vectorisation == "async" else _time_limit(probe)
        probe.close()
        bare = self._limit is not None
        kind = AsyncCopies if cfg.vectorisation == "async" else SyncCopies
        maker: Maker = partial(make, cfg, training=training, bare=bare)
        makers = [Rebuilt.around(maker) if cfg.rebuild else maker] * num_envs
        self._copies: Copies = kind(cfg.id, makers)
        self._reward_scale = cfg.reward_scale
        self._shape = obs_space.shape
        self._dtype = obs_space.dtype
        self._finite = obs_space.dtype != np.uint8
        self._everyone = range(num_envs)
        self._nobody = np.zeros(num_envs, np.bool_)
        self._nobody.flags.writeable = False

    @classmethod
    def spaces(cls, cfg: GymEnvironmentConfig) -> tuple[Box, Space[Any]]:
        """Make one copy to see its spaces."""
        env = make(cfg)
        try:
            return seen_space(cfg.id, env.observation_space), agents_space(cfg.id, env.action_space)
        finally:
            env.close()

    def _advance(self, action: Array) -> Step:
        obs, rewards, terminated, truncated = self._copies.step(self._to_native(action))
        next_obs = self._gather(obs, self._everyone, action)
        reward = self._rewards(rewards, action)
        timed_out = self._timed_out()
        if not (timed_out or True in terminated or True in truncated):
            return Step(next_obs, reward, self._nobody, self._nobody, [])
        ended = np.array(terminated, np.bool_)
        cut = np.array(truncated, np.bool_)
        cut[timed_out] = True
        over = np.flatnonzero(ended | cut).tolist()
        return Step(next_obs, reward, ended, cut & ~ended, over)

    def _timed_out(self) -> list[int]:
        """Return the copies whose game reaches the time limit with this step."""
        now = self._steps + 1
        if self._limit is None or now - self._oldest < self._limit:
            return []
        limit = self._limit
        return [copy for copy, start in enumerate(self._started) if now - start >= limit]

    def _restart(self, copies: list[int], seeds: list[int] | None) -> Array:
        return self._gather(self._copies.reset(copies, seeds), copies, None)

    def _gather(self, obs: Any, copies: range | list[int], action: Array | None) -> Array:
        """Return the observations of `copies` as one new array.

        Raises:
            BrokenEnvironmentError: where one has another shape than its space, or is not finite.
        """
        try:
            batch: Array = np.array(obs, self._dtype)
            right = batch.shape == (len(copies), *self._shape)
        except (TypeError, ValueError, OverflowError):
            right = False
            batch = np.empty(0)
        if not right:
            self._blame_shape(obs, copies)
        # A sum of squares is the cheapest test that no value is missing (0.7 us); where it
        # overflows or is missing, the exact test decides.
        if self._finite and not math.isfinite(np.vdot(batch, batch)):
            self._blame_value(batch, copies, action)
        return batch

    def _blame_shape(self, obs: Any, copies: range | list[int]) -> None:
        space = self.obs_space
        for copy, one in zip(copies, obs, strict=True):
            problem = wrong_shape(one, space)
            if problem is not None:
                raise BrokenEnvironmentError(self.name, copy, problem)
        raise BrokenEnvironmentError(self.name, None, f"observations do not fit {space}")

    def _blame_value(self, batch: Array, copies: range | list[int], action: Array | None) -> None:
        for copy, one in zip(copies, batch, strict=True):
            if not np.isfinite(one).all():
                shown = np.array2string(one, threshold=12, precision=4)
                after = "a reset" if action is None else f"action {action[copy]}"
                problem = f"the observation after {after} is not finite: {shown}"
                raise BrokenEnvironmentError(self.name, copy, problem)

    def _rewards(self, rewards: Any, action: Array) -> NDArray[np.float64]:
        try:
            batch = np.array(rewards, np.float64)
            if batch.shape == (self.num_envs,) and math.isfinite(np.vdot(batch, batch)):
                return batch
        except (TypeError, ValueError):
            pass
        for copy, reward in enumerate(rewards):
            if not (np.isscalar(reward) and np.isfinite(cast("float", reward))):
                problem = (
                    f"expected a finite number as reward, got {reward} after action {action[copy]}"
                )
                raise BrokenEnvironmentError(self.name, copy, problem)
        return np.array(rewards, np.float64)

    def learner_reward(self, reward: Array) -> NDArray[np.float32]:
        """Return the rewards times `reward_scale`."""
        scaled = reward if self._reward_scale == 1 else reward * self._reward_scale
        return scaled.astype(np.float32)

    def close(self) -> None:
        """Close every copy."""
        self._copies.close()


def make(
    cfg: GymEnvironmentConfig,
    *,
    training: bool = True,
    render_mode: str | None = None,
    bare: bool = False,
) -> Env[Any, Any]:
    """Make one copy whose observations are a vector or an image, channels first.

    `bare` leaves out the time limit and the order of calls, which a caller then looks after.

    Raises:
        ConfigError: where Gymnasium cannot make it.
    """
    kwargs = {**cfg.kwargs, **({} if training else cfg.eval_kwargs)}
    if cfg.max_t is not None:
        kwargs["max_episode_steps"] = cfg.max_t
    if render_mode is not None:  # not every constructor knows it
        kwargs["render_mode"] = render_mode
    try:
        if ":" in cfg.id:
            check_registers(cfg.id.partition(":")[0])
        _import_quietly(cfg.id)
        env: Env[Any, Any] = gymnasium.make(cfg.id, disable_env_checker=True, **kwargs)
    except Exception as error:
        raise ConfigError("env.id", f"{cfg.id} cannot be made: {described(error)}") from error
    return observed(_without_wrappers(env) if bare else env)


def _import_quietly(name: str) -> None:
    """Import the physics of an environment without the warnings that say nothing to its users."""
    spec = gymnasium.registry.get(name)
    entry = "" if spec is None else str(spec.entry_point)
    if ".box2d" in entry and "Box2D" not in sys.modules:
        # Its binding warns of its own types; where warnings are errors that is a crash.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            importlib.import_module("Box2D")
    if ".mujoco" in entry:
        _quieten_mujoco(importlib.import_module("mujoco"))


def _quieten_mujoco(mujoco: Any) -> None:
    """Send MuJoCo's warnings to our log, but for those about attributes of Gymnasium's own models.

    Of itself it prints them, and appends them to a file in the working directory.
    """

    def warn(message: str) -> None:
        if "deprecated" not in message:
            log.warning("MuJoCo: %s", message)

    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(warn)


def _time_limit(env: Env[Any, Any]) -> int | None:
    """Return the frames after which an outer TimeLimit truncates, if there is one."""
    inner: Env[Any, Any] = env
    while isinstance(inner, (FlattenObservation, TransformObservation)):
        inner = inner.env
    return inner.spec.max_episode_steps if isinstance(inner, TimeLimit) and inner.spec else None


def _without_wrappers(env: Env[Any, Any]) -> Env[Any, Any]:
    for wrapper in (TimeLimit, OrderEnforcing):
        if type(env) is wrapper:
            env = env.env
    return env
