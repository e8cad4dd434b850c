"""`load` a trained agent from its trial's folder, to act in any program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from omegaconf import DictConfig, OmegaConf

from rlhydra.agent.agent import Agent, Array
from rlhydra.build import load_config
from rlhydra.checkpoint import Checkpoints
from rlhydra.config import Config
from rlhydra.env.environment import Environment
from rlhydra.env.gym import GymEnvironment, GymEnvironmentConfig
from rlhydra.files import refuse_links
from rlhydra.record import best_weights
from rlhydra.schema import ConfigError
from rlhydra.targets import target_class


class Player:
    """A trained agent that only acts; its observations and actions are the environment's own."""

    def __init__(self, config: Config, agent: Agent, session: int) -> None:
        self.config = config
        self.agent = agent
        self.session = session  # whose weights these are
        self._memory: torch.Tensor | None = None
        self._generator = torch.Generator(agent.device).manual_seed(config.seed)
        self._native = native_actions(config)

    def act(self, obs: ArrayLike, *, sample: bool = False) -> Any:
        """Choose the action for one observation, or the actions for a batch along the first axis.

        The likeliest one, or with `sample` one drawn as in training. An agent with a memory
        remembers the observations since `reset`.

        Raises:
            ValueError: where the observation has neither shape.
        """
        space = self.agent.obs_space
        array = np.asarray(obs, space.dtype)
        single = array.shape == space.shape
        if not single and array.shape[1:] != space.shape:
            expected = f"{space.shape} or (N, {', '.join(map(str, space.shape))})"
            raise ValueError(f"expected an observation of shape {expected}, got {array.shape}")
        batch = array[None] if single else array
        generator = self._generator if sample else None
        action, self._memory = self.agent.play(batch, self._memory, generator)
        action = self._native(action)
        return action[0] if single else action

    def reset(self) -> None:
        """Forget the observations so far: a new game begins."""
        self._memory = None


class _Rescaling(GymEnvironment):
    """Tells how an environment's own actions follow from an agent's."""

    def native(self, action: Array) -> Array:
        return self._to_native(action)


def _unchanged(action: Array) -> Array:
    return action


def native_actions(config: Config) -> Callable[[Array], Array]:
    """Return the map from an agent's actions (N, ...) to the environment's own."""
    if not isinstance(config.env, GymEnvironmentConfig):
        return _unchanged
    cfg = replace(config.env, vectorisation="sync")
    env = _Rescaling(cfg, 1, np.random.SeedSequence(0), training=False)
    env.close()
    return env.native


def load(folder: str | Path, session: int | None = None) -> Player:
    """Return the best agent of the trial in `folder`: of one session, or of the best of them.

    Neither the folder nor any global stream of randomness changes.

    Raises:
        ConfigError: where `folder` holds no trial, or none of its sessions was evaluated yet.
    """
    folder = Path(folder)
    config = read_config(folder)
    index, path = best_weights(folder, session)
    weights = Checkpoints.read(path)
    obs_space, action_space = target_class(config.env_target, Environment).spaces(config.env)
    agent_class = target_class(config.agent_target, Agent)
    seed = np.random.SeedSequence(config.seed)
    with torch.random.fork_rng(devices=[]):
        agent: Agent = agent_class(
            config.agent, obs_space, action_space, config.env.num_envs, seed, torch.device("cpu")
        )
    agent.load_weights(weights)
    return Player(config, agent, index)


def read_config(folder: Path) -> Config:
    """Return the configuration of the trial in `folder`.

    Raises:
        ConfigError: where there is none, or a link in the folder.
    """
    refuse_links(folder)
    path = folder / ".hydra" / "config.yaml"
    if not path.is_file():
        raise ConfigError(str(folder), "expected a trial's folder; there is no .hydra/config.yaml")
    composed = OmegaConf.load(path)
    assert isinstance(composed, DictConfig)
    return load_config({str(key): composed[key] for key in composed})
