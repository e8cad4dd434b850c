"""Measures training speed beside Stable-Baselines3: the same work, interleaved rounds, medians.

Each round is a fresh process; what is timed is the training call alone, for us with logs and
checkpoints on.
The bound is ours without a loop around it: environment, acting and learning measured one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

NETS = "agent.net={kind: mlp, hidden: %s, activation: %s, shared: false}"


@dataclass(frozen=True)
class Work:
    """One work item: overrides for us, an algorithm and its arguments for Stable-Baselines3."""

    title: str
    frames: int
    threads: int
    ours: tuple[str, ...]
    algorithm: str
    env: str
    num_envs: int
    theirs: dict[str, Any] = field(default_factory=dict[str, Any])
    policy: str = "MlpPolicy"


PPO = ("agent.gamma=0.99", "agent.lam=0.95", "agent.lr=3e-4", "agent.clip=0.2")
WORKS = {
    "W1": Work(
        "PPO CartPole: 8 x 128, 4 epochs, minibatch 256, separate 2 x 64 tanh",
        100_000,
        1,
        (
            "agent=ppo", "env=cartpole", "env.num_envs=8", *PPO, "agent.horizon=128",
            "agent.epochs=4", "agent.minibatch_size=256", NETS % ([64, 64], "tanh"),
        ),
        "PPO",
        "CartPole-v1",
        8,
        {"n_steps": 128, "n_epochs": 4, "batch_size": 256},
    ),
    "W3": Work(
        "DQN CartPole: batch 64, 120-84 relu, one update a step after 1 000",
        15_000,
        1,
        (
            "agent=dqn", "env=cartpole", "env.num_envs=1", "agent.batch_size=64",
            "agent.learning_starts=1000", "agent.train_frequency=1", "agent.updates_per_train=1",
            "agent.buffer_size=10000", "agent.target_update_frequency=500", "agent.lr=2.5e-4",
            "agent.tau=1", NETS % ([120, 84], "relu"),
        ),
        "DQN",
        "CartPole-v1",
        1,
        {
            "batch_size": 64, "learning_starts": 1000, "train_freq": 1, "gradient_steps": 1,
            "buffer_size": 10_000, "target_update_interval": 500, "learning_rate": 2.5e-4,
            "policy_kwargs": {"net_arch": [120, 84]},
        },
    ),
    "W4": Work(
        "SAC Pendulum: 256 x 256 relu, batch 256, one update a step",
        3_000,
        2,
        (
            "agent=sac", "env=pendulum", "env.num_envs=1", "agent.batch_size=256",
            "agent.learning_starts=100", "agent.train_frequency=1", "agent.updates_per_train=1",
            NETS % ([256, 256], "relu"),
        ),
        "SAC",
        "Pendulum-v1",
        1,
        {"batch_size": 256, "learning_starts": 100, "policy_kwargs": {"net_arch": [256, 256]}},
    ),
    "W5": Work(
        "PPO Pong: Nature CNN, 8 x 128, 4 epochs, minibatch 256",
        4_096,
        2,
        (
            "agent=ppo", "env=pong", "env.num_envs=8", "agent.horizon=128", "agent.epochs=4",
            "agent.minibatch_size=256",
        ),
        "PPO",
        "PongNoFrameskip-v4",
        8,
        {"n_steps": 128, "n_epochs": 4, "batch_size": 256},
        "CnnPolicy",
    ),
    "W6": Work(
        "PPO HalfCheetah: 1 x 2048, 10 epochs, minibatch 64, 2 x 64 tanh",
        20_480,
        1,
        (
            "agent=ppo", "env=halfcheetah", "env.num_envs=1", *PPO, "agent.horizon=2048",
            "agent.epochs=10", "agent.minibatch_size=64", NETS % ([64, 64], "tanh"),
        ),
        "PPO",
        "HalfCheetah-v5",
        1,
        {"n_steps": 2048, "n_epochs": 10, "batch_size": 64},
    ),
}  # fmt: skip


def train_ours(work: Work) -> dict[str, float]:
    """Train one session as the command line does; then the parts of its loop by themselves."""
    import numpy as np
    from hydra import compose, initialize_config_dir

    from rlhydra.composition import CONF, register
    from rlhydra.config import parse
    from rlhydra.session import Channel, Session

    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = parse(compose("config", [*work.ours, f"env.max_frame={work.frames}"]))
    with tempfile.TemporaryDirectory() as folder:
        session = Session(
            config, 0, Path(folder), Channel(os.open(os.devnull, os.O_WRONLY)), work.threads
        )
        start = time.perf_counter()
        session.run()
        seconds = time.perf_counter() - start
        agent, env, clock = session.agent, session.env, session.clock
        parts = dict.fromkeys(("environment", "act", "learn"), 0.0)
        frames = 0
        env.action_space.seed(0)
        while sum(parts.values()) < seconds / 4:
            begin = time.perf_counter()
            action = agent.act(session.obs)
            acted = time.perf_counter()
            transition, session.obs = env.step(action)
            stepped = time.perf_counter()
            agent.observe(transition)
            observed = time.perf_counter()
            agent.update(clock)
            learned = time.perf_counter()
            parts["act"] += acted - begin
            parts["environment"] += stepped - acted
            parts["learn"] += learned - observed
            frames += env.num_envs
        session.close()
    bound = frames / sum(parts.values()) if np.isfinite(seconds) else 0.0
    return {"fps": work.frames / seconds, "bound": bound}


def train_theirs(work: Work) -> dict[str, float]:
    """Train the same work with Stable-Baselines3."""
    import stable_baselines3
    import torch
    from stable_baselines3.common.env_util import make_atari_env, make_vec_env
    from stable_baselines3.common.vec_env import VecFrameStack

    torch.set_num_threads(work.threads)
    if work.policy == "CnnPolicy":
        import ale_py
        import gymnasium

        gymnasium.register_envs(ale_py)
        env: Any = VecFrameStack(make_atari_env(work.env, work.num_envs, seed=0), 4)
    else:
        env = make_vec_env(work.env, work.num_envs, seed=0)
    cls = getattr(stable_baselines3, work.algorithm)
    model = cls(work.policy, env, seed=0, device="cpu", **work.theirs)
    start = time.perf_counter()
    model.learn(work.frames)
    return {"fps": work.frames / (time.perf_counter() - start)}


def measure(name: str, side: str) -> dict[str, float]:
    """Run one round in a process of its own."""
    environment = {
        **os.environ, "OMP_NUM_THREADS": str(WORKS[name].threads), "OPENBLAS_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, __file__, "--side", side, name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} {side} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Interleave rounds of both sides and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("works", nargs="*", default=list(WORKS), help=f"of {', '.join(WORKS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        train = train_ours if arguments.side == "ours" else train_theirs
        print(json.dumps(train(WORKS[arguments.works[0]])))
        return
    packages = ("rlhydra", "stable-baselines3", "torch", "gymnasium", "ale-py", "mujoco")
    print(", ".join(f"{package} {version(package)}" for package in packages))
    for name in arguments.works:
        work = WORKS[name]
        print(f"\n{name} {work.title}; {work.frames} frames, {work.threads} thread(s)")
        print(f"  ours:   {' '.join(work.ours)}")
        print(f"  theirs: {work.algorithm} {work.env} x {work.num_envs} {work.theirs}")
        rounds = [(measure(name, "ours"), measure(name, "theirs")) for _ in range(arguments.rounds)]
        _show([a for a, _ in rounds], [b for _, b in rounds])


def _show(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    """Print medians and ranges of both sides, of their ratio, and our share of the bound."""
    fps, bound = [round_["fps"] for round_ in ours], [round_["bound"] for round_ in ours]
    peer = [round_["fps"] for round_ in theirs]
    ratios = [a / b for a, b in zip(fps, peer, strict=True)]
    shares = [a / b for a, b in zip(fps, bound, strict=True)]
    rows = {"ours": fps, "theirs": peer, "bound": bound, "ratio": ratios, "share": shares}
    for label, values in rows.items():
        form = ",.0f" if values[0] > 100 else ".2f"
        middle, low, high = statistics.median(values), min(values), max(values)
        print(f"  {label:7}{middle:>9{form}}  ({low:{form}} to {high:{form}})")


if __name__ == "__main__":
    main()
