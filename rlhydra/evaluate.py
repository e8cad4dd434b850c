"""Rigorous evaluation: whole games, played for their score alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlhydra.agent.agent import Agent
from rlhydra.env.environment import Environment, Game, Recording

LONGEST = 108_000  # frames after which a game that has no end of its own is counted as it stands


class Played(NamedTuple):
    """A game, and what shows it again; None where it was cut for its length."""

    game: Game
    recording: Recording | None


def play(
    agent: Agent,
    env: Environment,
    episodes: int,
    seed: np.random.SeedSequence,
    *,
    sample: bool,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Game]:
    """Play `episodes` whole games in each copy and return them all.

    A fixed quota for each copy: the first games to finish would favour short ones. Neither the
    agent nor its streams of randomness change. Fewer games return where `stopped` says so.
    """
    env_seed, action_seed = seed.spawn(2)
    generator = _generator(agent, action_seed) if sample else None
    obs = env.reset(env_seed)
    quota = np.full(env.num_envs, episodes)
    memory: Tensor | None = None
    games: list[Game] = []
    for _ in range(LONGEST * episodes):
        action, memory = agent.play(obs, memory, generator)
        _, obs = env.step(action)
        for game in env.games:
            if quota[game.copy] > 0:
                quota[game.copy] -= 1
                games.append(game)
            if memory is not None:
                memory[..., game.copy, :] = 0
        if not quota.any() or stopped():
            return games
    return games + [game for game in env.running() if quota[game.copy] > 0]


def first_games(
    agent: Agent,
    env: Environment,
    seed: np.random.SeedSequence,
    *,
    sample: bool,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Played]:
    """Play one game in each copy, cut where it is too long or `stopped` says so."""
    env_seed, action_seed = seed.spawn(2)
    generator = _generator(agent, action_seed) if sample else None
    obs, memory = env.reset(env_seed), None
    ended: dict[int, Played] = {}
    for _ in range(LONGEST):
        action, memory = agent.play(obs, memory, generator)
        _, obs = env.step(action)
        for game in env.games:
            if game.copy not in ended:
                ended[game.copy] = Played(game, env.recording(game))
        if len(ended) == env.num_envs or stopped():
            break
    cut = (Played(game, None) for game in env.running() if game.copy not in ended)
    ended |= {one.game.copy: one for one in cut}
    return [ended[copy] for copy in range(env.num_envs)]


def _generator(agent: Agent, seed: np.random.SeedSequence) -> torch.Generator:
    return torch.Generator(agent.device).manual_seed(int(seed.generate_state(1)[0]))
