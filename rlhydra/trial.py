"""A trial: the sessions of one configuration, run as processes and put together in one folder."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from rlhydra.baseline import random_return
from rlhydra.config import Config, defining_settings, digest, flat, parse
from rlhydra.console import choose_mode, closing_table, near, open_console, start_panel
from rlhydra.events import EventFile
from rlhydra.files import write_atomically
from rlhydra.processes import Judge, Sessions, SessionState
from rlhydra.progress import Progress
from rlhydra.provenance import git_commit, versions
from rlhydra.record import read_trial, without_secrets
from rlhydra.report import write_report
from rlhydra.resources import SHARED_FILE, available_cores, available_gpus, share
from rlhydra.schema import ConfigError

log = logging.getLogger(__name__)

# A session that ended so would end so again; a failed one gets another chance at the next start.
FINAL = ("completed", "pruned", "diverged")

# The first of these that a session has is the trial's.
WORST_FIRST = ("failed", "diverged", "interrupted", "pruned", "completed")


class Interrupted(BaseException):
    """A signal came when no session was left to be stopped by it."""


class Trial:
    """Runs the sessions of one configuration; `run` returns the exit code.

    Starting it again on the same folder goes on where it stopped.
    """

    def __init__(
        self,
        composed: DictConfig,
        folder: Path,
        names: dict[str, str],
        judge: Judge | None = None,
    ) -> None:
        """Take the `names` of agent and environment as chosen; a `judge` may end the trial early.

        Raises:
            ConfigError: where what `folder` holds cannot be gone on with.
        """
        self.config: Config = parse(composed)
        self.folder = folder
        self.names = names
        self._origin = {
            "versions": versions(),
            "git_commit": git_commit(),
            "config_hash": digest(composed),
        }
        self._settings = _shown(composed)
        meta = self.config.meta
        halving = judge is not None and meta.search_scheduler is not None
        self.share = share(meta, available_cores(), available_gpus(), together=halving)
        self.states = [SessionState(i, self.config.seed) for i in range(meta.max_session)]
        self.status = "running"
        self.objective: float | None = None
        self.random_return: float | None = None
        self.metrics: dict[str, Any] = {}
        self._signal: int | None = None
        self._concluding = False
        self._concluded = False  # by an earlier start: nothing is left to do
        self._resumed = False
        self._take_up()
        plain = cast("dict[str, Any]", OmegaConf.to_container(composed, resolve=True))
        self.sessions = Sessions(folder, self.share, plain, meta.max_retries, self._changed, judge)

    def _take_up(self) -> None:
        """Take over what an earlier start in this folder had finished."""
        path = self.folder / "trial.json"
        if not path.exists():
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            self.random_return = before["random_return"]
            for state, entry in zip(self.states, before["sessions"], strict=False):
                state.frame, state.wall_time = entry["frame"], entry["wall_time"]
                longer = self.config.env.max_frame > entry["frame"]
                if entry["status"] in FINAL and not (entry["status"] == "completed" and longer):
                    state.status, state.error = entry["status"], entry["error"]
            self._resumed = True
            if before["status"] in FINAL and not self._waiting():
                self._concluded = True
                self.status, self.objective = before["status"], before["objective"]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            problem = f"it cannot be read ({error}); delete it to go on from the checkpoints"
            raise ConfigError(str(path), problem) from error

    def _waiting(self) -> list[SessionState]:
        return [state for state in self.states if state.status not in FINAL]

    def run(self) -> int:
        """Run what is to be run, write the results, show them; of a finished trial only this.

        Raises:
            ConfigError: where the results cannot be written.
        """
        mode = choose_mode(self.config.meta.progress)
        console = open_console(mode)
        if not self._concluded:
            with self._signals():
                try:
                    self._train(mode, console)
                    self._conclude(console)
                except Interrupted:
                    self._break_off()
                    self.metrics = dict(read_trial(self.folder).metrics)
                    self._write()
                except OSError as error:
                    problem = f"results cannot be written ({error}); make room and start again"
                    raise ConfigError(str(self.folder), problem) from error
        self._show_result(console)
        return self._exit_code()

    def _train(self, mode: Any, console: Console) -> None:
        waiting = self._waiting()
        if not waiting:
            return
        env = self.config.env
        start_panel(
            console,
            agent=self.names["agent"],
            env=env.id,
            sessions=len(self.states),
            parallel=self.share.parallel,
            seed=self.config.seed,
            max_frame=env.max_frame,
            num_envs=env.num_envs,
            common_clock=bool(self.config.meta.distributed),
            device=f"cuda {','.join(self.share.gpus)}" if self.share.gpus else "cpu",
            cores=available_cores(),
            folder=self.folder,
            resumed=self._resumed,
        )
        with Progress(
            len(self.states),
            env.max_frame,
            mode,
            console=console,
            common_clock=bool(self.config.meta.distributed),
        ) as progress:
            for state in self.states:
                if state not in waiting:
                    progress.update(state.index, state=state.status, frame=state.frame)
            self.sessions.run(waiting, progress)

    @contextlib.contextmanager
    def _signals(self) -> Generator[None]:
        """Pass signals on to the sessions; at a second one to stop, end at once."""

        def stop(number: int, _: FrameType | None) -> None:
            if self._signal is not None:
                self._end_at_once(number)
            self._signal = number
            self.sessions.stop(signal.SIGTERM)
            if self._concluding:
                raise Interrupted

        def save(*_: object) -> None:
            self.sessions.send(signal.SIGUSR1)

        handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGUSR1: save}
        try:
            before = {number: signal.signal(number, handlers[number]) for number in handlers}
        except ValueError:  # not the main thread: whoever called us handles signals
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end_at_once(self, number: int) -> None:
        self.sessions.kill()
        with contextlib.suppress(OSError):
            self._break_off()
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # the live display hides the cursor
        os._exit(128 + number)

    def _break_off(self) -> None:
        """Write down that there is no result, as a signal came."""
        self.status, self.objective = "interrupted", None
        for state in self.states:
            if state.status in ("queued", "running"):
                state.status = "interrupted"
        self._write()

    def _changed(self) -> None:
        """Write down that a session began or ended."""
        try:
            self._write()
        except OSError as error:  # a full disk: written again at the end
            log.warning("%s could not be written: %s", self.folder / "trial.json", error)

    def _conclude(self, console: Console) -> None:
        """Put the sessions' rows together: metrics, objective, status, report."""
        self._concluding = True
        if self._signal is not None:
            raise Interrupted
        found = {self._outcome(state) for state in self.states}
        status = next(status for status in WORST_FIRST if status in found)
        if status != "interrupted" and self.random_return is None:
            self.random_return = random_return(self.config)
        self._write()  # the metrics are read from the folder, which must know the baseline
        self.metrics = dict(read_trial(self.folder).metrics)
        # An interrupted trial has no result yet, and one that lost a session never will.
        if status in ("completed", "pruned"):
            self.objective = self.metrics[self.config.meta.metric]["mean"]
        self.status = status
        self._write()
        if status in ("completed", "pruned"):
            (self.folder / SHARED_FILE).unlink(missing_ok=True)
        try:
            self._write_hyperparameters()
            if status != "interrupted":  # it is to end soon, and `rlhydra.report` can draw it
                write_report(self.folder)
        except OSError as error:
            console.print(f"The report could not be written ({error}): the result is complete.")
        self._concluding = False

    def _write_hyperparameters(self) -> None:
        """Let TensorBoard's HParams tab set this trial beside others: settings and results."""
        folder = self.folder / "hparams"
        folder.mkdir(exist_ok=True)
        with contextlib.closing(EventFile(folder)) as events:
            succeeded = self.status in ("completed", "pruned")
            events.hyperparameters(self._settings, succeeded=succeeded)
            means = {name: metric["mean"] for name, metric in self.metrics.items()}
            events.scalars(max(state.frame for state in self.states), means)
            events.flush()

    def _outcome(self, state: SessionState) -> str:
        if state.status == "queued":
            state.status = "pruned" if self.sessions.pruned else "interrupted"
        return state.status

    def _write(self) -> None:
        content = {
            "status": self.status,
            "objective": self.objective,
            "metric": self.config.meta.metric,
            "metrics": self.metrics,
            "sessions": [asdict(state) for state in self.states],
            "random_return": self.random_return,
            **self._origin,
        }
        text = json.dumps(_finite(content), indent=2, allow_nan=False)
        write_atomically(self.folder / "trial.json", text.encode())

    def _show_result(self, console: Console) -> None:
        trial = json.loads((self.folder / "trial.json").read_text(encoding="utf-8"))
        files = {"report": self.folder / "report.html", "curves": self.folder / "plots"}
        place = shlex.quote(near(self.folder))
        commands = {
            "watch": f"python -m rlhydra.enjoy {place} --video games.mp4",
            "compare": f"python -m rlhydra.report {place} OTHER_FOLDER",
            "curves": f"tensorboard --logdir {place}",
        }
        if self.status == "interrupted":
            commands = {
                "resume": f"python -m rlhydra.resume {place}",
                "report": f"python -m rlhydra.report {place}",
            }
        files = {name: path for name, path in files.items() if path.exists()}
        title = f"{self.names['agent']} on {self.config.env.id}"
        closing_table(console, trial, title=title, files=files, commands=commands)

    def _exit_code(self) -> int:
        if self.status == "interrupted" and self._signal is not None:
            return 128 + self._signal
        return 0 if self.status in ("completed", "pruned") else 1


def _shown(composed: DictConfig) -> dict[str, Any]:
    """Return what defines the trial; references to the process's environment stay as written."""
    written = flat(without_secrets(cast("dict[str, Any]", OmegaConf.to_container(composed))))
    hidden = {key: text for key, text in written.items() if "oc.env:" in str(text)}
    settings = defining_settings(composed)
    return {key: hidden.get(key, value) for key, value in settings.items()}


def _finite(value: Any) -> Any:
    """Return plain data with None for numbers that JSON does not have."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_finite(item) for item in cast("list[Any]", value)]
    return value
