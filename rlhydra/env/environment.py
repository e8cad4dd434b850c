"""The environment facade: true successors, whole-game returns, no trace of autoreset, exact restoring."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from numpy.typing import NDArray

from rlhydra.env.history import History

Array = NDArray[Any]
Mask = NDArray[np.bool_]


class Transition(NamedTuple):
    """What one vector step did; the leading axis of each array is the N environment copies."""

    obs: Array
    action: Array
    reward: NDArray[np.float32]  # as the learner sees it: clipped or scaled where configured
    next_obs: Array  # the true successor, never the observation of a reset
    terminated: Mask  # the successor has no value: game over, or a life lost where lives are split
    truncated: Mask  # cut by a time limit: the successor still has a value


class Game(NamedTuple):
    """A finished game: its raw, unclipped return over all lives, and its length in frames."""

    copy: int
    true_return: float
    length: int


class Step(NamedTuple):
    """What an environment library reports for one vector step, before this facade has seen it."""

    next_obs: Array
    reward: Array  # raw
    terminated: Mask  # for the learner: life lost or game over
    truncated: Mask
    over: Mask  # the game ended, by termination or truncation


def action_kind(space: Space[Any]) -> str:
    """Return the name of the kind of action space that an agent's settings list."""
    return {Discrete: "discrete", MultiDiscrete: "multidiscrete"}.get(type(space), "box")


class Environment(ABC):
    """N copies of an environment that step together.

    Each copy is exactly (the seed of its last seeded reset, the actions since): that is its whole saved state.
    Arrays that `reset` and `step` return stay valid until the second `step` after.
    """

    # A copy whose action history exceeds this is seeded anew at its next game's end, so that
    # restoring stays short. A seeded reset of one Atari copy costs 70 ms: not more often.
    RESEED_AFTER: ClassVar[int] = 8192

    # Whether evaluation samples actions unless told otherwise.
    sampled: ClassVar[bool] = False

    def __init__(
        self,
        num_envs: int,
        obs_space: Box,
        action_space: Space[Any],
        seed: np.random.SeedSequence,
    ) -> None:
        self.num_envs = num_envs
        self.obs_space = obs_space
        self.action_space = action_space
        self.games: list[Game] = []  # finished during the last step
        self._seed = seed
        self._seedings = np.zeros(num_envs, np.int64)  # seeded resets of each copy so far
        self._seeds = np.zeros(num_envs, np.int64)
        self._returns = np.zeros(num_envs, np.float64)
        self._lengths = np.zeros(num_envs, np.int64)
        self._history = History(num_envs, action_space)
        shape = (num_envs, *obs_space.shape)
        self._buffers = [np.zeros(shape, obs_space.dtype), np.zeros(shape, obs_space.dtype)]
        self._obs = self._buffers[0]

    @classmethod
    @abstractmethod
    def spaces(cls, cfg: Any) -> tuple[Box, Space[Any]]:
        """Return the observation and action space that an agent will see.

        Raises:
            ConfigError: where there is no such environment, or an agent cannot use its spaces.
        """

    @abstractmethod
    def _advance(self, action: Array) -> Step:
        """Step all copies; a copy whose game is over is left for `_restart`, or has restarted itself."""

    @abstractmethod
    def _restart(self, over: Mask, seeds: NDArray[np.int64] | None) -> Array:
        """Start a game in the copies `over` and return all current observations; `seeds` one for each of them."""

    @abstractmethod
    def close(self) -> None:
        """Release the copies and their processes or threads."""

    def learner_reward(self, reward: Array) -> NDArray[np.float32]:
        """Return the raw rewards as the learner shall see them."""
        return reward.astype(np.float32)

    def reset(self, seed: np.random.SeedSequence | None = None) -> Array:
        """Start a game in every copy, freshly seeded, and return the observations.

        With a `seed` the copies' streams start anew from it.
        """
        if seed is not None:
            self._seed = seed
            self._seedings[:] = 0
        everyone = np.ones(self.num_envs, np.bool_)
        self._returns[:] = 0
        self._lengths[:] = 0
        self._obs = self._keep(self._restart(everyone, self._fresh_seeds(everyone)))
        return self._obs

    def step(self, action: Array) -> tuple[Transition, Array]:
        """Step all copies; return what happened and the observations to act on next."""
        obs = self._obs
        self._history.add(action)
        step = self._advance(action)
        next_obs = self._keep(step.next_obs)
        self._returns += step.reward
        self._lengths += 1
        self.games = []
        self._obs = next_obs
        if step.over.any():
            self._finish(step.over)
            self._obs = self._begin(step.over, next_obs)
        transition = Transition(
            obs,
            action,
            self.learner_reward(step.reward),
            next_obs,
            step.terminated,
            step.truncated,
        )
        return transition, self._obs

    def running(self) -> list[Game]:
        """Return the games that are not over, as they stand."""
        scores = zip(self._returns.tolist(), self._lengths.tolist(), strict=True)
        return [Game(copy, score, length) for copy, (score, length) in enumerate(scores)]

    def _keep(self, obs: Array) -> Array:
        """Copy into the older of two buffers: the previous observations stay whole for the transition."""
        older = self._buffers[0] if self._obs is not self._buffers[0] else self._buffers[1]
        np.copyto(older, obs, casting="unsafe")
        return older

    def _finish(self, over: Mask) -> None:
        for copy in np.flatnonzero(over):
            game = Game(int(copy), float(self._returns[copy]), int(self._lengths[copy]))
            self.games.append(game)
        self._returns[over] = 0
        self._lengths[over] = 0

    def _begin(self, over: Mask, next_obs: Array) -> Array:
        """Restart the copies `over`; their history starts anew where it has grown long."""
        long = over & (self._history.lengths() >= self.RESEED_AFTER)
        obs = next_obs.copy()
        if (over & ~long).any():
            short = over & ~long
            obs[short] = self._restart(short, None)[short]
        if long.any():
            obs[long] = self._restart(long, self._fresh_seeds(long))[long]
        return obs

    def _fresh_seeds(self, copies: Mask) -> NDArray[np.int64]:
        """Draw the next seed of each of `copies`, from a stream of its own, and forget its history."""
        for copy in np.flatnonzero(copies):
            key = (*self._seed.spawn_key, int(copy), int(self._seedings[copy]))
            stream = np.random.SeedSequence(self._seed.entropy, spawn_key=key)
            self._seeds[copy] = int(stream.generate_state(1)[0]) >> 1  # ALE takes 31 bits
        self._seedings[copies] += 1
        self._history.forget(copies)
        return self._seeds[copies]

    def state(self) -> dict[str, Any]:
        """Return what `load` needs to bring every copy back to this very moment."""
        return {
            "seedings": self._seedings,
            "seeds": self._seeds,
            "returns": self._returns,
            "lengths": self._lengths,
            "history": self._history.state(),
            "digest": zlib.crc32(np.ascontiguousarray(self._obs)),
        }

    def load(self, state: dict[str, Any]) -> tuple[Array, bool]:
        """Replay every copy from its seed; return the observations, and whether they are the saved ones.

        Where they are not (some environments reset differently once used), every copy starts a new game.
        """
        self._seedings[:] = state["seedings"]
        self._seeds[:] = state["seeds"]
        self._history.load(state["history"])
        self._obs = self._keep(self._replay())
        if zlib.crc32(np.ascontiguousarray(self._obs)) != state["digest"]:
            return self.reset(), False
        self._returns[:] = state["returns"]
        self._lengths[:] = state["lengths"]
        return self._obs, True

    def _replay(self) -> Array:
        """Replay the histories so that all copies end together: a shorter one is seeded later.

        Until then such a copy plays on with whatever action the others' rows hold.
        """
        lengths = self._history.lengths()
        obs = self._restart(np.ones(self.num_envs, np.bool_), self._seeds)
        longest = int(lengths.max(initial=0))
        for remaining in range(longest, 0, -1):
            starting = (lengths == remaining) & (remaining < longest)
            if starting.any():
                obs = self._restart(starting, self._seeds[starting])
            step = self._advance(self._history.back(remaining))
            obs = step.next_obs
            if step.over.any():
                obs = self._restart(step.over, None)
        fresh = (lengths == 0) & (longest > 0)
        return self._restart(fresh, self._seeds[fresh]) if fresh.any() else obs
