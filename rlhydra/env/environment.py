"""The environment facade: true successors, whole-game returns, no autoreset, exact restoring."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from numpy.typing import NDArray

from rlhydra.env.history import Array, History

Mask = NDArray[np.bool_]


class BrokenEnvironmentError(Exception):
    """An environment that does not do what its own spaces promise, or that raised."""

    def __init__(self, name: str, copy: int | None, problem: str) -> None:
        super().__init__(name, copy, problem)

    def __str__(self) -> str:
        name, copy, problem = self.args
        return f"environment {name}{'' if copy is None else f', copy {copy}'}: {problem}"


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


class Recording(NamedTuple):
    """A game: its copy's last seed and the actions since, `start` of which came before it."""

    seed: int
    start: int
    actions: Array  # (start + length, ...)


class Step(NamedTuple):
    """What an environment library reports for one vector step, before this facade has seen it."""

    next_obs: Array  # never written again
    reward: Array  # raw
    terminated: Mask  # for the learner: life lost or game over
    truncated: Mask  # and not terminated
    over: list[int]  # copies whose game ended, by termination or truncation


def action_kind(space: Space[Any]) -> str:
    """Return the name of the kind of action space that an agent's settings list."""
    kinds: dict[type, str] = {Discrete: "discrete", MultiDiscrete: "multidiscrete"}
    return kinds.get(type(space), "box")


class Environment(ABC):
    """N copies of an environment that step together.

    Each copy is exactly (the seed of its last seeded reset, the actions since): that is its whole
    saved state.
    The arrays that `reset` and `step` return are never written again, and are not to be written to.
    """

    # A copy whose action history exceeds this is seeded anew at its next game's end, so that
    # restoring stays short.
    RESEED_AFTER: ClassVar[int] = 1024

    frame_skip: ClassVar[int] = 1  # the simulator's own frames per frame

    # Whether evaluation samples actions unless told otherwise.
    sampled: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        num_envs: int,
        obs_space: Box,
        action_space: Space[Any],
        seed: np.random.SeedSequence,
    ) -> None:
        self.name = name
        self.num_envs = num_envs
        self.obs_space = obs_space
        self.action_space = action_space
        self.games: list[Game] = []  # finished during the last step
        self._seed = seed
        self._seedings = [0] * num_envs  # seeded resets of each copy so far
        self._seeds = [0] * num_envs
        self._returns = np.zeros(num_envs, np.float64)
        self._steps = 0
        self._started = [0] * num_envs  # the step at which each copy's game began
        self._oldest = 0  # the earliest of them
        self._history = History(num_envs, action_space)
        self._ended: dict[
            int, tuple[int, int]
        ] = {}  # seed and actions of those whose game just ended
        self._obs: Array = np.zeros((num_envs, *obs_space.shape), obs_space.dtype)

    @classmethod
    @abstractmethod
    def spaces(cls, cfg: Any) -> tuple[Box, Space[Any]]:
        """Return the observation and action space that an agent will see.

        Raises:
            ConfigError: where there is no such environment, or an agent cannot use its spaces.
        """

    @abstractmethod
    def _advance(self, action: Array) -> Step:
        """Step all copies; a copy whose game is over waits for `_restart`, or restarted itself."""

    @abstractmethod
    def _restart(self, copies: list[int], seeds: list[int] | None) -> Array:
        """Start a game in each of `copies` and return their observations, (len(copies), ...).

        Without seeds a copy goes on with its own randomness.
        """

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
            self._seedings = [0] * self.num_envs
        everyone = list(range(self.num_envs))
        self.games = []
        self._begin_counts()
        self._obs = self._restart(everyone, self._fresh_seeds(everyone))
        return self._obs

    def step(self, action: Array) -> tuple[Transition, Array]:
        """Step all copies; return what happened and the observations to act on next.

        Raises:
            BrokenEnvironmentError: where a copy raised, or returned what its spaces do not allow.
        """
        self._history.add(action)
        step = self._advance(action)
        self._returns += step.reward
        self._steps += 1
        transition = Transition(
            self._obs,
            action,
            self.learner_reward(step.reward),
            step.next_obs,
            step.terminated,
            step.truncated,
        )
        self._obs = step.next_obs
        self.games = self._finish(step.over) if step.over else []
        return transition, self._obs

    def running(self) -> list[Game]:
        """Return the games that are not over, as they stand."""
        return [
            Game(copy, float(self._returns[copy]), self._steps - self._started[copy])
            for copy in range(self.num_envs)
        ]

    def recording(self, game: Game) -> Recording:
        """Return what shows a game of `games` again, before the next step."""
        seed, length = self._ended[game.copy]
        return Recording(seed, length - game.length, self._history.of(game.copy, length))

    def _finish(self, over: list[int]) -> list[Game]:
        """Count the finished games and start the next; long histories begin anew."""
        running = self.running()
        games = [running[copy] for copy in over]
        self._ended = {copy: (self._seeds[copy], self._history.length(copy)) for copy in over}
        for copy in over:
            self._returns[copy] = 0
            self._started[copy] = self._steps
        self._oldest = min(self._started)
        long = [copy for copy in over if self._history.length(copy) >= self.RESEED_AFTER]
        short = [copy for copy in over if copy not in long]
        self._obs = self._obs.copy()
        if short:
            self._obs[short] = self._restart(short, None)
        if long:
            self._obs[long] = self._restart(long, self._fresh_seeds(long))
        return games

    def _fresh_seeds(self, copies: list[int]) -> list[int]:
        """Draw the next seed of each of `copies` from a stream of its own; forget its history."""
        for copy in copies:
            key = (*self._seed.spawn_key, copy, self._seedings[copy])
            stream = np.random.SeedSequence(self._seed.entropy, spawn_key=key)
            self._seeds[copy] = int(stream.generate_state(1)[0]) >> 1  # ALE takes 31 bits
            self._seedings[copy] += 1
        self._history.forget(copies)
        return [self._seeds[copy] for copy in copies]

    def _begin_counts(self) -> None:
        self._returns[:] = 0
        self._started = [self._steps] * self.num_envs
        self._oldest = self._steps

    def state(self) -> dict[str, Any]:
        """Return, as arrays and JSON values, what `load` needs to come back to this very moment."""
        return {
            "seedings": list(self._seedings),
            "seeds": list(self._seeds),
            "history": self._history.state(),
            **self._position(),
        }

    def load(self, state: dict[str, Any]) -> tuple[Array, bool]:
        """Replay every copy from its seed; return the observations, and whether these are right.

        Where they are not the saved ones (some environments reset differently once used), every
        copy starts a new game.
        """
        self.games = []
        self._seedings = [int(count) for count in state["seedings"]]
        self._seeds = [int(seed) for seed in state["seeds"]]
        self._history.load(state["history"])
        self._replay()
        if self._position() != {key: state[key] for key in self._position()}:
            return self.reset(), False
        return self._obs, True

    def _position(self) -> dict[str, Any]:
        """Return what tells whether the copies are where they were."""
        return {
            "digest": zlib.crc32(np.ascontiguousarray(self._obs).data),
            "returns": self._returns.tolist(),
            "lengths": [self._steps - started for started in self._started],
        }

    def rewind(self, recording: Recording) -> Array:
        """Bring the one copy of this environment to the start of a recorded game.

        `step` with the remaining actions then plays it; each as a row of one copy.
        """
        assert self.num_envs == 1
        self.games = []
        actions = recording.actions[: recording.start, None]
        self._seeds = [recording.seed]
        self._history.load({"actions": actions, "lengths": [recording.start]})
        self._replay()
        self._begin_counts()
        return self._obs

    def _replay(self) -> None:
        """Replay the histories so that all copies end together: a shorter one is seeded later.

        Until then such a copy plays on with whatever action the others' rows hold.
        """
        everyone = range(self.num_envs)
        lengths = [self._history.length(copy) for copy in everyone]
        longest = max(lengths)
        self._begin_counts()
        self._obs = self._restart(list(everyone), self._seeds)
        for done, action in enumerate(self._history.last(longest)):
            self._seed_again([c for c in everyone if 0 < done == longest - lengths[c]])
            step = self._advance(action)
            self._returns += step.reward
            self._steps += 1
            self._obs = step.next_obs
            if step.over:
                self._restarted(step.over, None)
        self._seed_again([c for c in everyone if lengths[c] == 0 < longest])

    def _seed_again(self, copies: list[int]) -> None:
        if copies:
            self._restarted(copies, [self._seeds[copy] for copy in copies])

    def _restarted(self, copies: list[int], seeds: list[int] | None) -> None:
        self._obs = self._obs.copy()
        self._obs[copies] = self._restart(copies, seeds)
        for copy in copies:
            self._returns[copy] = 0
            self._started[copy] = self._steps
        self._oldest = min(self._started)
