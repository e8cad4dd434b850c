"""A trial's folder as training leaves it, without the training: for what reads one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from rlhydra.agent.agent import Agent
from rlhydra.build import load_config
from rlhydra.checkpoint import Checkpoints
from rlhydra.env.environment import Environment
from rlhydra.targets import target_class
from tests.conftest import composed


def untrained(folder: Path, *overrides: str, scores: tuple[float, ...] = (1.0,)) -> Path:
    """Write the trial of `overrides`: a session for each score, with an agent of random weights."""
    config = composed(*overrides)
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    parsed = load_config(config)
    spaces = target_class(parsed.env_target, Environment).spaces(parsed.env)
    agent_class = target_class(parsed.agent_target, Agent)
    for index, score in enumerate(scores):
        own = folder / f"session_{index}"
        own.mkdir()
        (own / "eval.csv").write_text(f"frame,opt_step,return_mean\n10,1,\n20,2,{score}\n")
        seed, cpu = np.random.SeedSequence(index), torch.device("cpu")
        agent = agent_class(parsed.agent, *spaces, parsed.env.num_envs, seed, cpu)
        Checkpoints(own / "checkpoints").save_weights(20, agent.weights(), best=True, keep=False)
    sessions = [{"index": i, "status": "completed"} for i in range(len(scores))]
    (folder / "trial.json").write_text(json.dumps({"status": "completed", "sessions": sessions}))
    return folder
