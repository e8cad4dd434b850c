"""Films a game of evaluation for TensorBoard, while a session trains."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rlhydra.agent.agent import Agent
from rlhydra.config import Config
from rlhydra.env.environment import Environment
from rlhydra.evaluate import first_games
from rlhydra.film import animation, draw_off_screen
from rlhydra.replay import frame_rate, moments
from rlhydra.targets import target_class


def footage(
    config: Config, agent: Agent, seed: np.random.SeedSequence, stopped: Callable[[], bool]
) -> bytes | None:
    """Play a game in an environment of its own and return it as a GIF; None where it was cut.

    Nothing of the training changes.

    Raises:
        ConfigError: where the environment cannot be rendered.
    """
    env: Environment = target_class(config.env_target, Environment)(
        config.env, 1, seed, training=False
    )
    meta = config.meta
    sample = env.sampled if meta.eval_sample is None else meta.eval_sample
    try:
        (played,) = first_games(agent, env, seed, sample=sample, stopped=stopped)
    finally:
        env.close()
    if played.recording is None:
        return None
    draw_off_screen()
    return animation(moments(config, played.recording), frame_rate(config))
