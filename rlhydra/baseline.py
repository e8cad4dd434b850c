"""The return of a uniformly random policy: the zero of strength and efficiency."""

from __future__ import annotations

import json
import logging
import time
from functools import cache
from pathlib import Path

import numpy as np

from rlhydra.config import Config, target_class
from rlhydra.env.environment import Environment

log = logging.getLogger(__name__)

GAMES = 100
SECONDS = 10.0  # at most, where it has to be measured after a trial


def random_return(config: Config) -> float | None:
    """Return the known mean return, or measure it; None where not one game was finished in time."""
    env = config.env
    known = _known().get(env.id)
    if known is not None and not (env.kwargs or env.eval_kwargs or env.max_t):
        return float(known["mean"])
    try:
        returns = measure(config)
    except Exception:  # the trial's own result must not suffer
        log.exception("the random baseline of %s could not be measured", env.id)
        return None
    return float(np.mean(returns)) if returns else None


def measure(config: Config, games: int = GAMES, seconds: float = SECONDS) -> list[float]:
    """Return the true returns of a random policy over so many whole games, or so much time."""
    cls = target_class(config.env_target, Environment)
    copies = min(config.env.num_envs, 8)
    env = cls(config.env, copies, np.random.SeedSequence(0), training=False)
    try:
        env.action_space.seed(0)
        env.reset()
        returns: list[list[float]] = [[] for _ in range(copies)]
        quota = -(-games // copies)
        end = time.monotonic() + seconds
        while min(map(len, returns)) < quota and time.monotonic() < end:
            env.step(np.stack([env.action_space.sample() for _ in range(copies)]))
            for game in env.games:
                returns[game.copy].append(game.true_return)
        # The same number of each copy: the first to finish would favour short games.
        return [value for own in returns for value in own[:quota]]
    finally:
        env.close()


@cache
def _known() -> dict[str, dict[str, float]]:
    path = Path(__file__).with_name("random_returns.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
