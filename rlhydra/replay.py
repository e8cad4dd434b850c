"""Shows recorded games again: the same seed and actions, in an environment that renders."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any, NamedTuple, cast

import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from rlhydra.config import Config
from rlhydra.env.atari import FRAME_SKIP, AtariEnvironmentConfig, rom
from rlhydra.env.environment import Environment, Recording
from rlhydra.env.gym import GymEnvironmentConfig, make
from rlhydra.player import native_actions
from rlhydra.schema import ConfigError
from rlhydra.targets import target_class

Image = NDArray[np.uint8]  # (height, width, 3)

ATARI_RATE = 60 / FRAME_SKIP  # the console's 60 pictures a second
ATARI_SCREEN = {"img_height": 210, "img_width": 160, "grayscale": False, "stack_num": 1}


class Moment(NamedTuple):
    """A game at one frame."""

    image: Image
    score: float
    step: int


def frame_rate(config: Config) -> float:
    """Return how many frames a second the environment means to be shown at."""
    if isinstance(config.env, AtariEnvironmentConfig):
        return ATARI_RATE
    env = make(cast("GymEnvironmentConfig", config.env), training=False)
    env.close()
    return float(env.metadata.get("render_fps") or 30)


def score_again(config: Config, recording: Recording) -> float:
    """Play a game of training again, without pictures, and return its score."""
    env_class = target_class(config.env_target, Environment)
    env: Environment = env_class(config.env, 1, np.random.SeedSequence(0))
    try:
        env.rewind(recording)
        for action in recording.actions[recording.start :]:
            env.step(action[None])
        return env.games[0].true_return if env.games else env.running()[0].true_return
    finally:
        env.close()


def moments(config: Config, recording: Recording, *, training: bool = False) -> Generator[Moment]:
    """Yield every frame of a game; `training` says of which environments, where they differ.

    Raises:
        ConfigError: where the environment cannot be rendered.
    """
    if isinstance(config.env, AtariEnvironmentConfig):
        return _atari(config.env, recording, training=training)
    if isinstance(config.env, GymEnvironmentConfig):
        return _gym(config, config.env, recording, training=training)
    raise ConfigError("env._target_", f"no pictures of {config.env_target} can be made")


def _gym(
    config: Config, cfg: GymEnvironmentConfig, recording: Recording, *, training: bool
) -> Generator[Moment]:
    native = native_actions(config)
    env = make(cfg, training=training, render_mode="rgb_array")
    try:
        env.reset(seed=recording.seed)
        for action in recording.actions[: recording.start]:
            _, _, terminated, truncated, _ = env.step(native(action[None])[0])
            if terminated or truncated:
                env.reset()
        score = 0.0
        yield Moment(_rendered(cfg, env), score, 0)
        for step, action in enumerate(recording.actions[recording.start :], 1):
            _, reward, *_ = env.step(native(action[None])[0])
            score += float(reward)
            yield Moment(_rendered(cfg, env), score, step)
    finally:
        env.close()


def _rendered(cfg: GymEnvironmentConfig, env: Any) -> Image:
    try:
        image = env.render()
    except Exception as error:
        raise ConfigError("env.id", f"{cfg.id} cannot be rendered: {error}") from error
    if not isinstance(image, np.ndarray):
        raise ConfigError("env.id", f"{cfg.id} has no render mode rgb_array")
    return image


def _atari(
    cfg: AtariEnvironmentConfig, recording: Recording, *, training: bool
) -> Generator[Moment]:
    """Play in colour; all that decides the game's course is as the facade sets it."""
    own = {} if training else cfg.eval_kwargs
    options: dict[str, Any] = {**cfg.kwargs, **own, **ATARI_SCREEN}
    longest = 108_000 if cfg.max_t is None else cfg.max_t * FRAME_SKIP
    env = AtariVectorEnv(
        rom(cfg),
        1,
        max_num_frames_per_episode=longest,
        repeat_action_probability=cfg.sticky,
        full_action_space=cfg.full_actions,
        autoreset_mode=AutoresetMode.SAME_STEP,
        frameskip=FRAME_SKIP,
        noop_max=cfg.noop_max,
        reward_clipping=False,
        **options,
    )
    try:
        obs, _ = env.reset(seed=np.array([recording.seed], np.int32))
        for action in recording.actions[: recording.start]:
            obs, *_ = env.step(action[None])
        score, actions = 0.0, recording.actions[recording.start :]
        yield Moment(_screen(obs), score, 0)
        for step, action in enumerate(actions, 1):
            obs, reward, _, _, info = env.step(action[None])
            score += float(reward[0])
            ended = step == len(actions)
            yield Moment(_screen(info["final_obs"] if ended else obs), score, step)
    finally:
        env.close()


def _screen(obs: Any) -> Image:
    """Return the last screen of the one copy, whose pixels are wider than high."""
    return np.repeat(np.asarray(obs)[0].reshape(210, 160, 3), 2, axis=1)


def same_score(one: float, other: float) -> bool:
    """Return whether two sums of the same rewards are equal, but for rounding."""
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-6)
