"""Measures training speed beside Stable-Baselines3: the same work, interleaved rounds, medians.

Each round is a fresh process; what is timed is the training call alone, ours with logs, rows and
checkpoints on. The bound is what is left without a loop around it: the environment library's own
copies stepped at random, acting alone, and learning alone, from recorded steps.

Seconds are the wall's; where other processes share the cores, the processor's own (cpu) say more.
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
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

SOLVED = 475.0  # mean of the last 100 games: what W2 trains to

SEPARATE = "agent.net={kind: mlp, hidden: %s, activation: %s, shared: false}"
ONE = "agent.net={kind: mlp, hidden: %s, activation: %s, shared: true}"


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
    solve: bool = False  # train until SOLVED instead of a number of frames


PPO = ("agent.gamma=0.99", "agent.lam=0.95", "agent.lr=3e-4", "agent.clip=0.2")
WORKS = {
    "W1": Work(
        "PPO CartPole: 8 x 128, 4 epochs, minibatch 256, separate 2 x 64 tanh",
        100_000,
        1,
        (
            "agent=ppo", "env=cartpole", "env.num_envs=8", *PPO, "agent.horizon=128",
            "agent.epochs=4", "agent.minibatch_size=256", SEPARATE % ([64, 64], "tanh"),
        ),
        "PPO",
        "CartPole-v1",
        8,
        {"n_steps": 128, "n_epochs": 4, "batch_size": 256},
    ),
    "W2": Work(
        "PPO CartPole until the last 100 games' mean is 475, own settings",
        200_000,
        1,
        ("agent=ppo", "env=cartpole"),
        "PPO",
        "CartPole-v1",
        8,
        {
            "n_steps": 32, "batch_size": 256, "n_epochs": 20, "gae_lambda": 0.8, "gamma": 0.98,
            "learning_rate": 1e-3, "clip_range": 0.2, "decay": 100_000,
        },
        solve=True,
    ),
    "W3": Work(
        "DQN CartPole: batch 64, 120-84 relu, one update a step after 1 000",
        15_000,
        1,
        (
            "agent=dqn", "env=cartpole", "env.num_envs=1", "agent.batch_size=64",
            "agent.learning_starts=1000", "agent.train_frequency=1", "agent.updates_per_train=1",
            "agent.buffer_size=10000", "agent.target_update_frequency=500", "agent.lr=2.5e-4",
            "agent.tau=1", ONE % ([120, 84], "relu"),
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
            SEPARATE % ([256, 256], "relu"),
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
            "agent.epochs=10", "agent.minibatch_size=64", SEPARATE % ([64, 64], "tanh"),
        ),
        "PPO",
        "HalfCheetah-v5",
        1,
        {"n_steps": 2048, "n_epochs": 10, "batch_size": 64},
    ),
}  # fmt: skip


def train_ours(work: Work) -> dict[str, float]:
    """Train one session as the command line does; then measure the bound."""
    from hydra import compose, initialize_config_dir

    from rlhydra.channel import Channel
    from rlhydra.composition import CONF, register
    from rlhydra.config import parse
    from rlhydra.session import Session

    class UntilSolved(Channel):
        """Stops the session at the first eval row that is good enough."""

        def send(self, **message: Any) -> None:
            _, _, mean = message.get("row", (0, 0, None))
            self.stopped = work.solve and mean is not None and mean >= SOLVED

    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = parse(compose("config", [*work.ours, f"env.max_frame={work.frames}"]))
    with tempfile.TemporaryDirectory() as folder:
        session = Session(config, 0, Path(folder), UntilSolved(0), work.threads, rows=True)
        measured = timed(session.run)
        measured["frames"] = session.clock.frame
        if not work.solve:
            measured["bound"] = bound(session)
        session.close()
    return measured


def timed(function: Callable[[], Any]) -> dict[str, float]:
    """Return the seconds of a call, by the wall's clock and by the processor's."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def bound(session: Any) -> float:
    """Return the frames per second that environment, acting and learning leave, each by itself."""
    agent, env, clock = session.agent, session.env, session.clock
    steps = 2 * getattr(session.config.agent, "horizon", 250)  # two rollouts
    recorded: list[Any] = []
    for _ in range(64):
        transition, session.obs = env.step(agent.act(session.obs))
        recorded.append(transition)

    def act() -> None:
        for step in range(steps):
            agent.act(recorded[step % 64].obs)

    def learn() -> None:
        for step in range(steps):
            agent.observe(recorded[step % 64])
            agent.update(clock)

    frames = steps * env.num_envs
    cfg = session.config.env
    atari = cfg.id.startswith("ALE/")
    environment = games_alone(env.num_envs, session.threads) if atari else copies_alone(cfg.id, env)
    parts = act, learn, lambda: environment(steps)
    return frames / sum(timed(part)["wall"] for part in parts)


def games_alone(count: int, threads: int) -> Callable[[int], None]:
    """Return what steps copies of Pong with random actions, in ale-py's own vector."""
    import numpy as np
    from ale_py.vector_env import AtariVectorEnv

    games = AtariVectorEnv("pong", count, num_threads=threads)
    games.reset(seed=0)
    actions = np.random.default_rng(0).integers(6, size=(64, count))

    def run(steps: int) -> None:
        for step in range(steps):
            games.step(actions[step % 64])

    return run


def copies_alone(name: str, env: Any) -> Callable[[int], None]:
    """Return what steps as many copies with random actions, in a plain loop."""
    import gymnasium

    copies = [gymnasium.make(name, disable_env_checker=True) for _ in range(env.num_envs)]
    for number, copy in enumerate(copies):
        copy.reset(seed=number)
    actions = [copies[0].action_space.sample() for _ in range(64)]

    def run(steps: int) -> None:
        for step in range(steps):
            for copy in copies:
                _, _, terminated, truncated, _ = copy.step(actions[step % 64])
                if terminated or truncated:
                    copy.reset()

    return run


def train_theirs(work: Work) -> dict[str, float]:
    """Train the same work with Stable-Baselines3."""
    import stable_baselines3
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_atari_env, make_vec_env
    from stable_baselines3.common.vec_env import VecFrameStack

    class UntilSolved(BaseCallback):
        """Stops where the mean of the last 100 returns is good enough."""

        def _on_step(self) -> bool:
            games = self.model.ep_info_buffer
            return not games or statistics.fmean(game["r"] for game in games) < SOLVED

    torch.set_num_threads(work.threads)
    if work.policy == "CnnPolicy":
        import ale_py
        import gymnasium

        gymnasium.register_envs(ale_py)
        env: Any = VecFrameStack(make_atari_env(work.env, work.num_envs, seed=0), 4)
    else:
        env = make_vec_env(work.env, work.num_envs, seed=0)
    settings, frames = dict(work.theirs), work.frames
    if work.solve:
        frames = settings.pop("decay")
        for name in ("learning_rate", "clip_range"):  # both fall linearly to 0, as in the zoo
            settings[name] = lambda left, start=settings[name]: start * left
    cls = getattr(stable_baselines3, work.algorithm)
    model = cls(work.policy, env, seed=0, device="cpu", **settings)
    callback = UntilSolved() if work.solve else None
    measured = timed(lambda: model.learn(frames, callback=callback))
    return {**measured, "frames": model.num_timesteps}


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
        load = os.getloadavg()[0]
        print(f"\n{name} {work.title}; {work.threads} thread(s); load before {load:.1f}")
        print(f"  ours:   {' '.join(work.ours)}")
        print(f"  theirs: {work.algorithm} {work.env} x {work.num_envs} {work.theirs}")
        rounds = [(measure(name, "ours"), measure(name, "theirs")) for _ in range(arguments.rounds)]
        (show_seconds if work.solve else show_speed)(rounds)


Rounds = list[tuple[dict[str, float], dict[str, float]]]


def show_speed(rounds: Rounds) -> None:
    """Print frames per second of both sides, their ratio, and our share of the bound."""
    ours, theirs = (
        [side["frames"] / side["wall"] for side in sides] for sides in zip(*rounds, strict=True)
    )
    cpu = [b["cpu"] / b["frames"] / (a["cpu"] / a["frames"]) for a, b in rounds]
    row("ours", ours)
    row("theirs", theirs)
    row("ratio", [a / b for a, b in zip(ours, theirs, strict=True)])
    row("ratio, cpu", cpu)
    row("bound", [a["bound"] for a, _ in rounds])
    row("share", [fps / a["bound"] for fps, (a, _) in zip(ours, rounds, strict=True)])


def show_seconds(rounds: Rounds) -> None:
    """Print the seconds and frames that both sides took, and the share of theirs that we took."""
    for label, side in (("ours", 0), ("theirs", 1)):
        row(f"{label}, s", [round_[side]["wall"] for round_ in rounds])
        row(f"{label}, frames", [round_[side]["frames"] for round_ in rounds])
    row("share", [a["wall"] / b["wall"] for a, b in rounds])
    row("share, cpu", [a["cpu"] / b["cpu"] for a, b in rounds])


def row(label: str, values: list[float]) -> None:
    """Print the median and the range."""
    form = ",.0f" if values[0] > 100 else ".2f"
    middle, low, high = statistics.median(values), min(values), max(values)
    print(f"  {label:14}{middle:>9{form}}  ({low:{form}} to {high:{form}})", flush=True)


if __name__ == "__main__":
    main()
