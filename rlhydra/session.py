"""A session: one seed of one configuration."""

from __future__ import annotations

import contextlib
import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlhydra.agent.agent import finite
from rlhydra.build import EVALUATION, FOOTAGE, build, start_from, stream
from rlhydra.channel import Channel
from rlhydra.checkpoint import Checkpoints
from rlhydra.clock import Clock
from rlhydra.config import Config
from rlhydra.env.environment import Environment, Game
from rlhydra.evaluate import play
from rlhydra.games import Games
from rlhydra.hogwild import Hogwild
from rlhydra.log import Log
from rlhydra.net.arithmetic import choose, use
from rlhydra.record import read_yaml
from rlhydra.schema import ConfigError
from rlhydra.targets import target_class

logger = logging.getLogger(__name__)

REPORT_EVERY = 0.25  # seconds between progress messages to the trial
WEIGHTS_EVERY = 1.0  # seconds between writes of the best weights, which wait in memory meanwhile


class Session:
    """One agent, one vector environment, one clock; `run` trains to the end or until stopped."""

    def __init__(
        self,
        config: Config,
        index: int,
        folder: Path,
        channel: Channel,
        threads: int = 1,
        device: str = "cpu",
        *,
        rows: bool = False,
    ) -> None:
        """Make everything, as it was at the last checkpoint in `folder` if there is one.

        With `rows` the trial hears of every eval row.

        Raises:
            ConfigError: where agent and environment do not fit, or what `folder` holds is damaged.
        """
        self.config = config
        self.index = index
        self.channel = channel
        self.threads = threads
        self._rows = rows
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.clock = Clock(config.env.max_frame)
        self.agent, self.env = build(config, index, threads, device)
        arithmetic = choose(config.agent, torch.device(device), config.env.max_frame)
        self.arithmetic = str(arithmetic) if use(arithmetic, self.agent.networks()) else None
        self.evaluation: Environment | None = None
        self._reported = self._best_written = time.monotonic()
        self._unscored = False  # an evaluation was due and cut short
        self._best: tuple[int, dict[str, Any]] | None = None  # weights that are not written yet
        self._warnings: set[str] = set()
        saved = self.checkpoints.load()
        if saved is None and Log.has_rows(folder):
            problem = "holds rows but no checkpoint to go on from; choose another folder"
            raise ConfigError(str(folder), problem)
        log_state = None if saved is None else saved["log"]
        self.log = Log(folder, self.agent.metrics, log_state, self._warn)
        self.games = Games(folder, None if saved is None else saved["games"])
        if self.log.best_return is not None and not self.checkpoints.has_best():
            self._warn("the best weights are damaged: the next evaluation's take their place")
            self.log.best_return = None
        if saved is not None:
            self.obs = self._resume(saved)
        else:
            if config.agent.init_from is not None:
                start_from(self.agent, Path(config.agent.init_from))
            written = folder.parent / ".hydra" / "config.yaml"  # with references for secrets
            self.log.describe(read_yaml(written, resolve=True) or asdict(config))
            self.obs = self.env.reset()
        self.hogwild: Hogwild | None = None
        if config.meta.distributed:
            self._join(folder.parent, config.meta.distributed)
        if saved is None:
            self._save()
        self._saved = time.monotonic()

    def _join(self, trial: Path, mode: str) -> None:
        self.hogwild = Hogwild(
            trial,
            self.agent,
            self.clock,
            self.log.returns,
            self.index,
            self.config.meta.max_session,
            live=mode == "shared" and self.config.agent.sharing == "live",
        )
        behind, self.clock = not self.clock.done, self.hogwild.clock
        if self.index == 0 and behind and self.clock.done:
            self._unscored = True  # the others have come to the end without us

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
            if env.games:
                self._count(env.games)
            log.add(finite(agent.update(clock)))
            if clock.due(meta.log_frequency):
                log.train(clock, self.opt_step)
            if clock.due(meta.eval_frequency):
                self._evaluate()
            if meta.video_frequency and clock.due(meta.video_frequency):
                self._film()
            if self.channel.save_wanted:
                self._save_in_time(at_once=True)
        self._save()
        return "completed" if clock.done and not self._unscored else "interrupted"

    def _count(self, games: Sequence[Game]) -> None:
        """Take note of games that have just ended."""
        self.log.games(games, self.clock.frame)
        self.games.add(self.env, self.clock.frame)
        if self.hogwild is not None:
            self.hogwild.add(games)

    def _evaluate(self) -> None:
        """Write an eval row, keep the best weights, save what resuming needs, tell the trial."""
        if self.hogwild is None or self.index == 0:  # it scores what all of them train
            with self._latest():
                self._score()
            if self._unscored:
                return
        self._save_in_time()
        now = time.monotonic()
        if now - self._reported >= REPORT_EVERY or self.clock.done:
            self._reported = now
            self.report("running")

    def _score(self) -> None:
        meta, clock, log = self.config.meta, self.clock, self.log
        returns = list(log.returns) if self.hogwild is None else self.hogwild.returns
        if meta.rigorous_eval:
            returns = self._rigorous_returns()
        self._unscored = bool(meta.rigorous_eval) and self.channel.stopped
        if self._unscored:
            return  # cut short: it is done again after resuming
        if log.eval(clock, self.opt_step, returns):
            self._best = (clock.frame, copy.deepcopy(self.agent.weights()))
        if meta.keep == "all":
            self._keep_weights()
        if meta.histograms:
            log.distributions(clock.frame, self.agent.weights())
        if self._rows:
            mean = float(np.mean(returns)) if returns else None
            self.report("running", row=[clock.frame, self.opt_step, mean])

    def _latest(self) -> contextlib.AbstractContextManager[None]:
        """Let the agent be what is to be scored or written: under Hogwild! the shared one."""
        return contextlib.nullcontext() if self.hogwild is None else self.hogwild.latest()

    @property
    def opt_step(self) -> int:
        """Optimizer steps so far; under Hogwild! of all sessions, as frames are."""
        return self.agent.opt_step if self.hogwild is None else self.hogwild.opt_step

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

    def _film(self) -> None:
        """Let TensorBoard show a game of the agent as it is now."""
        if self.hogwild is not None and self.index:
            return
        from rlhydra.footage import footage  # drawing takes long to import

        seed = stream(self.config.seed, self.index, FOOTAGE, self.clock.frame)
        try:
            with self._latest():
                film = footage(self.config, self.agent, seed, lambda: self.channel.stopped)
        except ConfigError as error:
            self._warn(f"no films for TensorBoard: {error}")
            return
        if film is not None:
            self.log.film(self.clock.frame, film)

    def _save_in_time(self, *, at_once: bool = False) -> None:
        """Write what is due: the full state or the best weights; a full disk is for later."""
        now = time.monotonic()
        try:
            if at_once or now - self._saved >= self.config.meta.checkpoint_interval:
                self._saved = now
                self.channel.save_wanted = False
                self._save()
            elif now - self._best_written >= WEIGHTS_EVERY:
                self._best_written = now
                self._write_best()
        except OSError as error:
            self._warn(f"no checkpoint could be written, the last one is kept: {error}")

    def _save(self) -> None:
        """Write the full state, and first what it takes for written."""
        self._write_best()
        self.games.write()
        with self._latest():
            agent = self.agent.state()
        self.checkpoints.save(
            self.clock.frame,
            {
                "frame": self.clock.frame,
                "unscored": self._unscored,
                "agent": agent,
                "env": self.env.state(),
                "log": self.log.state(self.clock.frame),
                "games": self.games.state(),
            },
        )

    def _write_best(self) -> None:
        if self._best is not None:
            frame, weights = self._best
            self.checkpoints.save_weights(frame, weights, best=True, keep=False)
            self._best = None
        if self.games.unwritten_best:
            self.games.write()

    def _keep_weights(self) -> None:
        try:
            weights = self.agent.weights()
            self.checkpoints.save_weights(self.clock.frame, weights, best=False, keep=True)
        except OSError as error:
            self._warn(f"weights could not be kept: {error}")

    def _resume(self, saved: dict[str, Any]) -> Any:
        """Bring everything back to the moment of the checkpoint and return the observations."""
        self.clock = Clock(self.config.env.max_frame, saved["frame"])
        self._unscored = saved["unscored"]
        self.agent.load(saved["agent"])
        with self.channel.abrupt():  # replaying games can take long, and changes nothing on disk
            obs, exact = self.env.load(saved["env"])
        if not exact:
            self.agent.cut()
            self._warn(f"{self.config.env.id} does not replay exactly: new games start")
        return obs

    def _warn(self, text: str) -> None:
        """Log a warning, and tell the trial once."""
        logger.warning(text)
        if text not in self._warnings:
            self._warnings.add(text)
            self.report("running", note=text)

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
        """Write the rows that wait and release the environments."""
        try:
            self.log.close()
        finally:
            self.env.close()
            if self.evaluation is not None:
                self.evaluation.close()
