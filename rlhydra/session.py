"""A session: one seed of one configuration, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from rlhydra.agent.agent import Agent, Diverged
from rlhydra.checkpoint import Checkpoints
from rlhydra.clock import Clock
from rlhydra.config import Config, parse, target_class
from rlhydra.env.environment import Environment
from rlhydra.evaluate import play
from rlhydra.log import Log
from rlhydra.schema import ConfigError

REPORT_EVERY = 0.25  # seconds between progress messages to the trial

# Branches of a session's seed: nothing that is random in it shares a stream.
AGENT, ENVIRONMENT, EVALUATION = range(3)


def stream(seed: int, index: int, branch: int, *more: int) -> np.random.SeedSequence:
    """Return one of the streams of randomness of session `index`."""
    return np.random.SeedSequence((seed, index), spawn_key=(branch, *more))


@dataclass
class Channel:
    """The two pipes to the trial: commands come in on stdin, messages go out as lines of JSON."""

    messages: int  # file descriptor
    stopped: bool = False

    def listen(self) -> None:
        """Watch for the word to stop in a thread; the end of the pipe is the trial's death."""
        threading.Thread(target=self._listen, daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._stop)

    def _listen(self) -> None:
        for _ in sys.stdin:
            break
        self.stopped = True

    def _stop(self, *_: object) -> None:
        self.stopped = True

    def send(self, **message: Any) -> None:
        """Send one message; a trial that is gone is no reason to fail."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.messages, (json.dumps(message) + "\n").encode())


class Session:
    """One agent, one vector environment, one clock; `run` trains to the end or until stopped."""

    def __init__(self, config: Config, index: int, folder: Path, channel: Channel, threads: int):
        self.config = config
        self.index = index
        self.channel = channel
        self.threads = threads
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.clock = Clock(config.env.max_frame)
        self.agent, self.env = build(config, index, threads)
        self.evaluation: Environment | None = None
        saved = self.checkpoints.load()
        self.log = Log(folder, self.agent.metrics, None if saved is None else saved["log"])
        self._saved = self._reported = time.monotonic()
        self._unscored = False  # an evaluation was due and cut short
        self.obs = self.env.reset() if saved is None else self._resume(saved)

    def run(self) -> str:
        """Train; return how it ended: completed or interrupted."""
        clock, meta, agent, env, log = self.clock, self.config.meta, self.agent, self.env, self.log
        if self._unscored:
            self._evaluate()
        while not (clock.done or self.channel.stopped):
            action = agent.act(self.obs)
            transition, self.obs = env.step(action)
            agent.observe(transition)
            clock.tick(env.num_envs)
            log.games(env.games, clock.frame)
            log.add(agent.update(clock))
            if clock.due(meta.log_frequency):
                log.train(clock, agent.opt_step)
            if clock.due(meta.eval_frequency):
                self._evaluate()
        self._save()
        return "completed" if clock.done and not self._unscored else "interrupted"

    def _evaluate(self) -> None:
        """Write an eval row, keep the best weights, save what resuming needs, tell the trial."""
        meta, clock, log = self.config.meta, self.clock, self.log
        returns = self._rigorous_returns() if meta.rigorous_eval else list(log.returns)
        self._unscored = self.channel.stopped and bool(meta.rigorous_eval)
        if self._unscored:
            return  # cut short: it is done again after resuming
        best = log.eval(clock, self.agent.opt_step, returns)
        if best or meta.keep == "all":
            self.checkpoints.save_weights(
                clock.frame, self.agent.weights(), best=best, keep=meta.keep == "all"
            )
        now = time.monotonic()
        if now - self._saved >= meta.checkpoint_interval and not clock.done:
            self._save()
        if now - self._reported >= REPORT_EVERY or clock.done:
            self._reported = now
            self.report("running")

    def _rigorous_returns(self) -> list[float]:
        """Play the fixed quota of whole games in environments of their own."""
        config, meta = self.config, self.config.meta
        assert meta.rigorous_eval is not None
        env = self.evaluation = self.evaluation or target_class(config.env_target, Environment)(
            config.env,
            meta.rigorous_eval,
            stream(config.seed, self.index, EVALUATION),
            training=False,
            threads=self.threads,
        )
        games = play(
            self.agent,
            env,
            meta.eval_episodes,
            stream(config.seed, self.index, EVALUATION, self.clock.frame),
            sample=env.sampled if meta.eval_sample is None else meta.eval_sample,
            stopped=lambda: self.channel.stopped,
        )
        return [game.true_return for game in games]

    def _save(self) -> None:
        self.checkpoints.save(
            self.clock.frame,
            {
                "frame": self.clock.frame,
                "unscored": self._unscored,
                "agent": self.agent.state(),
                "env": self.env.state(),
                "log": self.log.state(self.clock.frame),
            },
        )
        self._saved = time.monotonic()

    def _resume(self, saved: dict[str, Any]) -> Any:
        """Bring everything back to the moment of the checkpoint and return the observations."""
        self.clock = Clock(self.config.env.max_frame, saved["frame"])
        self._unscored = saved["unscored"]
        self.agent.load(saved["agent"])
        obs, exact = self.env.load(saved["env"])
        if not exact:
            print(f"session {self.index}: {self.config.env.id} does not replay exactly; new games")
            self.report("running", note="the environment does not replay exactly: new games start")
        return obs

    def report(self, state: str, **more: Any) -> None:
        """Tell the trial how far the session is."""
        self.channel.send(
            state=state,
            frame=self.clock.frame,
            wall_time=round(self.log.wall_time, 3),
            last_return=self.log.mean_return,
            best_return=self.log.best_return,
            **more,
        )

    def close(self) -> None:
        """Write what waits and release the environments."""
        self.log.close()
        self.env.close()
        if self.evaluation is not None:
            self.evaluation.close()


def build(config: Config, index: int, threads: int) -> tuple[Agent, Environment]:
    """Make the agent and the training environment of a session.

    Raises:
        ConfigError: where they do not fit.
    """
    env_class = target_class(config.env_target, Environment)
    agent_class = target_class(config.agent_target, Agent)
    seed = stream(config.seed, index, ENVIRONMENT)
    env: Environment = env_class(config.env, config.env.num_envs, seed, threads=threads)
    # A second thread gains nothing on small networks, and costs much when another process is busy.
    torch.set_num_threads(threads if len(env.obs_space.shape) == 3 else 1)
    agent: Agent = agent_class(
        config.agent,
        env.obs_space,
        env.action_space,
        env.num_envs,
        stream(config.seed, index, AGENT),
        torch.device("cpu"),
    )
    return agent, env


def load_config(folder: Path) -> Config:
    """Read the configuration of the trial in `folder`, its classes imported."""
    composed = OmegaConf.load(folder / ".hydra" / "config.yaml")
    assert isinstance(composed, DictConfig)
    for group, base in (("agent", Agent), ("env", Environment)):
        target_class(composed[group]["_target_"], base)
    return parse(composed)


def main() -> None:
    """Run session INDEX of the trial in FOLDER on so many THREADS, as the trial's child process."""
    folder, index, threads, messages = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    channel = Channel(messages)
    channel.listen()
    try:
        config = load_config(folder)
        session = Session(config, index, folder / f"session_{index}", channel, threads)
        with contextlib.closing(session):
            session.report("running")
            ending = session.run()
        session.report(ending)
    except (ConfigError, Diverged) as error:
        traceback.print_exc()
        state = "diverged" if isinstance(error, Diverged) else "failed"
        channel.send(state=state, error=str(error), final=isinstance(error, ConfigError))
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        channel.send(state="failed", error=f"{type(error).__name__}: {error}")
        sys.exit(1)
