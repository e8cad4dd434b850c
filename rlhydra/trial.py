"""A trial: the sessions of one configuration, run as processes and put together in one folder."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import platform
import selectors
import signal
import subprocess
import sys
from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any, cast

from omegaconf import DictConfig

from rlhydra.baseline import random_return
from rlhydra.config import Config, digest, parse
from rlhydra.console import Progress, choose_mode, closing_table, open_console, start_panel
from rlhydra.files import write_atomically
from rlhydra.record import LOST, read_trial
from rlhydra.report import write_report

log = logging.getLogger(__name__)

VERSIONS = ("rlhydra", "torch", "numpy", "gymnasium", "ale-py", "hydra-core")


@dataclass
class SessionState:
    """What trial.json says of one session."""

    index: int
    seed: int
    status: str = "queued"
    frame: int = 0
    wall_time: float = 0.0
    error: str | None = None


@dataclass
class _Running:
    """A session's process and the two pipes to it."""

    state: SessionState
    process: subprocess.Popen[bytes]
    messages: int
    buffer: bytes = b""
    tries: int = 0
    final: bool = False  # another try would end the same way
    said: dict[str, Any] = field(default_factory=dict[str, Any])


class Trial:
    """Runs the sessions of one configuration; `run` returns the exit code.

    Starting it again on the same folder goes on where it stopped.
    """

    def __init__(self, composed: DictConfig, folder: Path, names: dict[str, str]) -> None:
        self.config: Config = parse(composed)
        self.folder = folder
        self.names = names  # of the agent and environment, as chosen
        self.hash = digest(composed)
        self.cores = available_cores()
        meta = self.config.meta
        self.parallel = max(1, min(meta.max_session, math.floor(self._cpus())))
        self.threads = max(1, math.floor(self._cpus()) // self.parallel)
        self.sessions = [SessionState(i, self.config.seed) for i in range(meta.max_session)]
        self.objective: float | None = None
        self.random_return: float | None = None
        self.metrics: dict[str, Any] = {}
        self.status = "running"
        self._signal: int | None = None
        self._running: dict[int, _Running] = {}
        self._take_up()

    def _cpus(self) -> float:
        """Return the processors of this trial, capped at what exists."""
        meta = self.config.meta
        wanted = meta.search_resources.cpu if meta.search_resources else None
        wanted = wanted or meta.num_cpus or meta.max_session
        return min(wanted, self.cores)

    def _take_up(self) -> None:
        """Take over what an earlier start in this folder had finished."""
        path = self.folder / "trial.json"
        if not path.exists():
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        self.random_return = before["random_return"]
        for state, entry in zip(self.sessions, before["sessions"], strict=False):
            state.frame, state.wall_time = entry["frame"], entry["wall_time"]
            if entry["status"] == "completed" and entry["frame"] >= self.config.env.max_frame:
                state.status = "completed"

    def run(self) -> int:
        """Run what is to be run, write the results, and show them."""
        mode = choose_mode(self.config.meta.progress)
        console = open_console(mode)
        waiting = [s for s in self.sessions if s.status != "completed"]
        if waiting:
            self._panel(console)
            self._write()
            with self._signals(), self._progress(mode, console) as progress:
                self._run_sessions(waiting, progress)
        self._conclude()
        if waiting:
            write_report(self.folder)
        self._close(console)
        return self._exit_code()

    def _panel(self, console: Any) -> None:
        env = self.config.env
        start_panel(
            console,
            agent=self.names["agent"],
            env=env.id,
            sessions=len(self.sessions),
            parallel=self.parallel,
            seed=self.config.seed,
            max_frame=env.max_frame,
            num_envs=env.num_envs,
            device="cpu",
            cores=self.cores,
            folder=self.folder,
            resumed=any(s.frame for s in self.sessions),
        )

    def _progress(self, mode: Any, console: Any) -> Progress:
        return Progress(len(self.sessions), self.config.env.max_frame, mode, console=console)

    def _run_sessions(self, waiting: list[SessionState], progress: Progress) -> None:
        """Keep `parallel` processes busy until every session has ended."""
        queue = list(waiting)
        with selectors.DefaultSelector() as selector:
            while queue or self._running:
                while queue and len(self._running) < self.parallel and self._signal is None:
                    self._start(queue.pop(0), selector)
                if not self._running:
                    break
                for key, _ in selector.select(timeout=1.0):
                    running = cast("_Running", key.data)
                    if self._read(running, progress):
                        continue
                    selector.unregister(running.messages)
                    if self._ended(running, progress):
                        self._start(running.state, selector, running.tries + 1)

    def _start(self, state: SessionState, selector: selectors.BaseSelector, tries: int = 0) -> None:
        folder = self.folder / f"session_{state.index}"
        folder.mkdir(exist_ok=True)
        receiving, sending = os.pipe()
        command = [sys.executable, "-c", "from rlhydra.session import main; main()"]
        arguments = [str(self.folder), str(state.index), str(self.threads), str(sending)]
        with (folder / "session.log").open("ab") as output:
            process = subprocess.Popen(
                command + arguments,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(sending,),
                env=self._environment(),
                start_new_session=True,  # Ctrl-C comes here, and is passed on
            )
        os.close(sending)
        state.status, state.error = "running", None
        running = _Running(state, process, receiving, tries=tries)
        self._running[state.index] = running
        selector.register(receiving, selectors.EVENT_READ, running)

    def _environment(self) -> dict[str, str]:
        """Return the environment variables of a session: its share of threads, our import path."""
        paths = [path or str(Path.cwd()) for path in sys.path]
        return {
            **os.environ,
            "OMP_NUM_THREADS": str(self.threads),
            "OPENBLAS_NUM_THREADS": "1",  # numpy's own threads spin beside torch's
            "MKL_NUM_THREADS": str(self.threads),
            "PYTHONPATH": os.pathsep.join(paths),
        }

    def _read(self, running: _Running, progress: Progress) -> bool:
        """Take in messages; return whether there may be more."""
        data = os.read(running.messages, 65536)
        *lines, running.buffer = (running.buffer + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            running.said.update(message)
            state = running.state
            state.frame = message.get("frame", state.frame)
            state.wall_time = message.get("wall_time", state.wall_time)
            running.final = message.get("final", False)
            if "note" in message:
                progress.note(f"session {state.index}: {message['note']}")
            if message["state"] == "running":
                self._show(running, "running", progress)
        return bool(data)

    def _show(self, running: _Running, state: str, progress: Progress) -> None:
        said = running.said
        last, best = said.get("last_return"), said.get("best_return")
        frame = running.state.frame
        progress.update(
            running.state.index, state=state, frame=frame, last_return=last, best_return=best
        )

    def _ended(self, running: _Running, progress: Progress) -> bool:
        """Take note of a session's end; return whether it is to be tried again."""
        state, process = running.state, running.process
        os.close(running.messages)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        code = process.wait()
        del self._running[state.index]
        state.status = str(running.said.get("state", "failed"))
        state.error = running.said.get("error")
        if state.status == "running":
            state.status = "failed"
            state.error = f"ended by {_reason(code)}; see session_{state.index}/session.log"
        again = (
            state.status == "failed"
            and not running.final
            and running.tries < self.config.meta.max_retries
            and self._signal is None
        )
        if again:
            progress.note(f"session {state.index} failed: {state.error}; trying again")
        self._show(running, "queued" if again else state.status, progress)
        self._write()
        return again

    @contextlib.contextmanager
    def _signals(self) -> Generator[None]:
        """Pass a signal on to the sessions; at a second one end at once."""

        def handle(number: int, _: FrameType | None) -> None:
            if self._signal is not None:
                for running in self._running.values():
                    running.process.kill()
                os._exit(128 + number)
            self._signal = number
            for running in self._running.values():
                running.process.terminate()

        numbers = (signal.SIGINT, signal.SIGTERM)
        try:
            before = [signal.signal(number, handle) for number in numbers]
        except ValueError:  # not the main thread: whoever called us handles signals
            yield
            return
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _conclude(self) -> None:
        """Put the sessions' rows together: metrics, objective, status."""
        statuses = [state.status for state in self.sessions]
        self.status = next(
            (s for s in ("failed", "diverged", "interrupted") if s in statuses), "completed"
        )
        if "queued" in statuses:
            self.status = "interrupted"
        if self.random_return is None and self.status == "completed":
            self.random_return = random_return(self.config)
        self._write()  # the metrics are read from the folder, which must know the baseline
        self.metrics = dict(read_trial(self.folder).metrics)
        whole = not any(status in LOST for status in statuses)
        self.objective = self.metrics[self.config.meta.metric]["mean"] if whole else None
        self._write()

    def _write(self) -> None:
        content = {
            "status": self.status,
            "objective": self.objective,
            "metric": self.config.meta.metric,
            "metrics": self.metrics,
            "sessions": [asdict(state) for state in self.sessions],
            "random_return": self.random_return,
            "versions": _versions(),
            "git_commit": _git_commit(),
            "config_hash": self.hash,
        }
        write_atomically(self.folder / "trial.json", json.dumps(content, indent=2).encode())

    def _close(self, console: Any) -> None:
        trial = json.loads((self.folder / "trial.json").read_text(encoding="utf-8"))
        files = {"report": self.folder / "report.md", "curves": self.folder / "plots"}
        where = self.folder
        commands = {
            "compare": f"python -m rlhydra.report {where} OTHER_FOLDER",
            "curves": f"tensorboard --logdir {where}",
        }
        title = f"{self.names['agent']} on {self.config.env.id}"
        closing_table(console, trial, title=title, files=files, commands=commands)

    def _exit_code(self) -> int:
        if self._signal is not None and self.status != "completed":
            return 128 + self._signal
        return 0 if self.status in ("completed", "pruned") else 1


def available_cores() -> int:
    """Return the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reason(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in VERSIONS:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _git_commit() -> str | None:
    """Return the commit of the checkout that this package lies in, if it does."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
    ]
    with contextlib.suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    return None
