"""Atari games on ale-py's own vector of threads, after Machado et al. (2018)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import ale_py
import numpy as np
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium import Space
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from rlhydra.config import EnvConfig
from rlhydra.env.environment import Array, Environment, Step
from rlhydra.env.shipped import game_name, games
from rlhydra.schema import ConfigError, Fraction, Positive, near

FRAME_SKIP = 4  # emulator frames per frame
SCREEN = (84, 84)
OPTIONS = ("img_height", "img_width", "maxpool", "use_fire_reset", "thread_affinity_offset")

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # or each game prints a banner


@dataclass(frozen=True)
class AtariEnvironmentConfig(EnvConfig):
    """Settings of an Atari game; `id` is as Gymnasium's, `ALE/<Game>-v5`."""

    sticky: Annotated[float, Fraction]  # probability that the emulator repeats the last action
    full_game: bool  # true: an episode is a whole game; false: a lost life ends it for the learner
    full_actions: bool  # true: all 18 actions; false: those the game knows
    reward: Literal["sign", "raw"]  # what the learner sees
    frame_stack: Annotated[int, Positive]
    noop_max: Annotated[int, Positive]  # a game starts with 1 to so many no-ops


class AtariEnvironment(Environment):
    """Copies of a game as 84 x 84 grey frames, stacked; they run on `threads` threads."""

    # A seeded reset of one copy takes 70 ms: not more often.
    RESEED_AFTER: ClassVar[int] = 8192

    frame_skip: ClassVar[int] = FRAME_SKIP

    sampled = True  # a greedy policy can wait for ever where only chance would fire

    def __init__(
        self,
        cfg: AtariEnvironmentConfig,
        num_envs: int,
        seed: np.random.SeedSequence,
        *,
        training: bool = True,
        threads: int = 1,
    ) -> None:
        """Make `num_envs` copies; `training=False` neither splits lives nor changes rewards."""
        obs_space, action_space = self.spaces(cfg)
        super().__init__(cfg.id, num_envs, obs_space, action_space, seed)
        # Rewards stay raw here, or true returns are lost; the learner's are made from them. Lives
        # are split by life_loss_info: episodic_life would restart the game at each lost life.
        self._copies = AtariVectorEnv(
            rom(cfg),
            num_envs,
            num_threads=min(threads, num_envs),
            max_num_frames_per_episode=108_000 if cfg.max_t is None else cfg.max_t * FRAME_SKIP,
            repeat_action_probability=cfg.sticky,
            full_action_space=cfg.full_actions,
            autoreset_mode=AutoresetMode.SAME_STEP,
            stack_num=cfg.frame_stack,
            frameskip=FRAME_SKIP,
            noop_max=cfg.noop_max,
            reward_clipping=False,
            life_loss_info=training and not cfg.full_game,
            **_options(cfg, training=training),
        )
        self._sign = training and cfg.reward == "sign"
        self._frames = np.zeros(num_envs, np.int32)  # emulator frames of the running games
        self._started_obs = self._obs

    @classmethod
    def spaces(cls, cfg: AtariEnvironmentConfig) -> tuple[Box, Space[Any]]:
        """Ask the game itself for its actions; the observations are ours."""
        options = {**_options(cfg, training=True), **_options(cfg, training=False)}
        ale = ale_py.ALEInterface()
        ale.loadROM(str(roms.get_rom_path(rom(cfg))))
        actions = ale.getLegalActionSet() if cfg.full_actions else ale.getMinimalActionSet()
        screen = (options.get("img_height", SCREEN[0]), options.get("img_width", SCREEN[1]))
        return Box(0, 255, (cfg.frame_stack, *screen), np.uint8), Discrete(len(actions))

    def _advance(self, action: Array) -> Step:
        obs, reward, terminated, truncated, info = self._copies.step(action)
        # A game over restarts the copy within the step, so that its count of frames begins anew; a
        # mere lost life does not. (The count may rise: a game cut short has fewer frames than the
        # next one's no-ops.)
        frames = info["episode_frame_number"]
        ended = truncated | (terminated & (frames != self._frames + FRAME_SKIP))
        self._frames = frames
        self._started_obs = obs
        over = np.flatnonzero(ended).tolist()
        if over:
            obs = obs.copy()
            obs[over] = info["final_obs"][over]
        return Step(obs, reward, terminated, truncated & ~terminated, over)

    def _restart(self, copies: list[int], seeds: list[int] | None) -> Array:
        if seeds is not None:
            mask = np.zeros(self.num_envs, np.bool_)
            mask[copies] = True
            self._started_obs, info = self._copies.reset(
                seed=np.array(seeds, np.int32), options={"reset_mask": mask}
            )
            self._frames = info["episode_frame_number"]
        return self._started_obs[copies]

    def learner_reward(self, reward: Array) -> NDArray[np.float32]:
        """Return the sign of each reward, in training, where so configured (Mnih et al., 2015)."""
        return (np.sign(reward) if self._sign else reward).astype(np.float32)

    def close(self) -> None:
        """Stop the threads."""
        self._copies.close()


def _options(cfg: AtariEnvironmentConfig, *, training: bool) -> dict[str, Any]:
    """Return what `kwargs` asks of AtariVectorEnv beyond this module's own settings."""
    group, options = ("kwargs", cfg.kwargs) if training else ("eval_kwargs", cfg.eval_kwargs)
    for name in options:
        if name not in OPTIONS:
            problem = f"AtariVectorEnv takes {', '.join(OPTIONS)} here{near(name, OPTIONS)}"
            raise ConfigError(f"env.{group}.{name}", problem)
    return dict(options if training else {**cfg.kwargs, **options})


def rom(cfg: AtariEnvironmentConfig) -> str:
    """Return the snake_case name of the game that `ALE/<Game>-v5` means.

    Raises:
        ConfigError: where ale-py plays no such game.
    """
    match = re.fullmatch(r"(?:ALE/)?([A-Za-z0-9]+)-v5", cfg.id)
    if match is None:
        raise ConfigError("env.id", f"expected ALE/<Game>-v5, got {cfg.id}")
    known = {game_name(name): name for name in games()}
    if match[1] not in known:
        raise ConfigError("env.id", f"ale-py plays no game {match[1]}{near(match[1], known)}")
    return known[match[1]]
