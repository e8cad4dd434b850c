"""What a session is made of: agent and environment, each with streams of randomness of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlhydra.agent.agent import Agent
from rlhydra.checkpoint import Checkpoints
from rlhydra.config import Config, parse
from rlhydra.env.environment import Environment
from rlhydra.net.arithmetic import wide
from rlhydra.record import best_weights
from rlhydra.schema import ConfigError
from rlhydra.targets import target_class

# Branches of a session's seed: nothing that is random in it shares a stream.
AGENT, ENVIRONMENT, EVALUATION, GAMES, FOOTAGE = range(5)


def stream(seed: int, index: int, branch: int, *more: int) -> np.random.SeedSequence:
    """Return one of the streams of randomness of session `index`."""
    return np.random.SeedSequence((seed, index), spawn_key=(branch, *more))


def build(
    config: Config, index: int, threads: int = 1, device: str = "cpu"
) -> tuple[Agent, Environment]:
    """Make the agent and the training environment of a session.

    Raises:
        ConfigError: where they do not fit.
    """
    env_class = target_class(config.env_target, Environment)
    agent_class = target_class(config.agent_target, Agent)
    seed = stream(config.seed, index, ENVIRONMENT)
    env: Environment = env_class(config.env, config.env.num_envs, seed, threads=threads)
    torch.set_num_threads(1)
    agent: Agent = agent_class(
        config.agent,
        env.obs_space,
        env.action_space,
        env.num_envs,
        stream(config.seed, index, AGENT),
        torch.device(device),
    )
    # A second thread gains nothing on small networks, and costs much beside a busy process.
    if len(env.obs_space.shape) == 3 or any(wide(agent.networks())):
        torch.set_num_threads(threads)
    return agent, env


def start_from(agent: Agent, folder: Path) -> None:
    """Give `agent` the weights of the best agent in the trial in `folder`.

    Raises:
        ConfigError: where there is none, or it has other networks.
    """
    _, path = best_weights(folder)
    weights = Checkpoints.read(path)
    mine, theirs = ", ".join(agent.weights()), ", ".join(weights)
    if mine != theirs:
        problem = f"{folder} holds another kind of agent: expected {mine}; got {theirs}"
        raise ConfigError("agent.init_from", problem)
    agent.load_weights(weights)


def load_config(composed: Mapping[str, Any]) -> Config:
    """Return the checked configuration, its classes imported."""
    for group, base in (("agent", Agent), ("env", Environment)):
        if "_target_" in (settings := composed.get(group) or {}):
            target_class(settings["_target_"], base)
    return parse(composed)
