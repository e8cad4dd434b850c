"""The return of a uniformly random policy: the zero of strength and efficiency."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rlhydra.config import Config
from rlhydra.env.environment import Environment
from rlhydra.targets import target_class

log = logging.getLogger(__name__)

GAMES = 100
COPIES = 2  # few, so that games of 27 000 frames come to their end in time
SECONDS = 10.0  # at most, where it has to be measured after a trial
MEASURED = Path(__file__).with_name("random_returns.json")  # by scripts/random_returns

# What changes how an environment is run, or what its learner sees, but not a game's true return.
_INCIDENTAL = (
    *("num_envs", "max_frame", "vectorisation", "rebuild", "reward_scale"),
    *("frame_stack", "full_game", "reward"),
)


def random_return(config: Config) -> float | None:
    """Return the known mean return, or measure it; None where not one game was finished in time."""
    entry = known().get(config.env.id)
    if entry is not None and entry["env"] == defining(config):
        return float(entry["mean"])
    try:
        returns = measure(config)
    except Exception:  # the trial's own result must not suffer
        log.exception("the random baseline of %s could not be measured", config.env.id)
        return None
    return float(np.mean(returns)) if returns else None


def defining(config: Config) -> dict[str, Any]:
    """Return the settings of the environment that true returns depend on."""
    settings = {"_target_": config.env_target, **asdict(config.env)}
    return {key: value for key, value in settings.items() if key not in _INCIDENTAL}


def measure(config: Config, games: int = GAMES, seconds: float = SECONDS) -> list[float]:
    """Return the true returns of a random policy over so many whole games, or so much time."""
    cls = target_class(config.env_target, Environment)
    copies = min(games, COPIES)
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
        # The same number of each copy, also where time is up: the first to finish are short games.
        rounds = min(quota, max(1, min(map(len, returns))))
        return [value for own in returns for value in own[:rounds]]
    finally:
        env.close()


@cache
def known() -> dict[str, dict[str, Any]]:
    """Return what is known of shipped environments, by their ids: mean, std, games, …."""
    return json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
