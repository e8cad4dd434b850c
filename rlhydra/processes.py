"""The sessions of a trial as processes: started, listened to, tried again, stopped."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol, cast

from rlhydra.channel import SIGNALS
from rlhydra.files import WRITING
from rlhydra.progress import Progress
from rlhydra.record import LOST
from rlhydra.resources import Share

GRACE = 8.0  # seconds from the word to stop until a session that did not is killed
LOOK_EVERY = 0.5  # seconds between looks after processes that ended without closing their pipe


@dataclass
class SessionState:
    """What trial.json says of one session."""

    index: int
    seed: int
    status: str = "queued"
    frame: int = 0
    wall_time: float = 0.0
    error: str | None = None
    arithmetic: str | None = None  # of networks, where it was a choice


class SessionProcess:
    """One session's process: orders go to its stdin, messages come back through a pipe."""

    def __init__(
        self,
        state: SessionState,
        place: int,
        folder: Path,
        orders: dict[str, Any],
        environment: dict[str, str],
    ) -> None:
        self.state = state
        self.place = place  # among those that run
        self.said: dict[str, Any] = {"state": "running"}
        self.messages, sending = os.pipe()
        os.set_blocking(self.messages, False)
        self._buffer = b""
        self._silent = False  # the pipe's other end was closed
        own = self._folder = folder / f"session_{state.index}"
        own.mkdir(exist_ok=True)
        program = "from rlhydra.session_process import main; main()"
        arguments = [sys.executable, "-P", "-c", program]
        # A session has signals blocked until it listens: one that comes earlier is not lost.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            with (own / "session.log").open("ab") as output:
                self._process = subprocess.Popen(
                    [*arguments, str(folder), str(state.index), str(sending)],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    pass_fds=(sending,),
                    env={**os.environ, "PYTHONPATH": import_path(), **environment},
                    start_new_session=True,  # Ctrl-C comes to the trial, and is passed on
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            os.close(sending)
        assert self._process.stdin is not None
        self._stdin = self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write((json.dumps(orders) + "\n").encode())
            self._stdin.flush()

    def send(self, number: int) -> None:
        """Send a signal to the session."""
        self._process.send_signal(number)

    def stop(self, number: int) -> None:
        """Let the session save and end; one that still starts up has nothing to save."""
        if "frame" in self.said:
            self.send(number)
        else:  # importing takes seconds on a busy machine, and hears no signal
            self.said["state"] = "interrupted"
            self.kill()

    def kill(self) -> None:
        """End the session and whatever it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    @property
    def over(self) -> bool:
        """Whether the process ended; environments that it left behind may hold its pipe open."""
        return self._silent or self._process.poll() is not None

    def read(self) -> list[dict[str, Any]]:
        """Return the messages that came in."""
        messages: list[dict[str, Any]] = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.messages, 65536):
                *lines, self._buffer = (self._buffer + data).split(b"\n")
                messages += map(json.loads, lines)
            self._silent = True
        for message in messages:
            self.said.update(message)
        return messages

    def close(self) -> int:
        """Clear away what is left of a process that is over; return its exit code."""
        os.close(self.messages)
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        code = self._process.wait()
        self.kill()
        if code < 0:
            for path in self._folder.rglob(f"*{WRITING}"):  # it was killed while it wrote that
                path.unlink(missing_ok=True)
        return code


class Judge(Protocol):
    """Decides over a trial while it runs."""

    def report(self, session: int, frame: int, opt_step: int, value: float | None) -> bool:
        """Take in an eval row of a session; return whether the trial is to stop."""
        ...

    def lose(self, session: int) -> None:
        """Take note of a session that diverged or failed for good."""
        ...


class Sessions:
    """Runs sessions, so many at once; a crashed one is tried again from its checkpoint."""

    def __init__(
        self,
        folder: Path,
        share: Share,
        config: dict[str, Any],
        max_retries: int,
        changed: Callable[[], None],
        judge: Judge | None = None,
    ) -> None:
        """Take the composed `config`; `changed` is called when a session began or ended."""
        self.pruned = False  # stopped by the judge
        self._judge = judge
        self._folder = folder
        self._share = share
        self._config = config
        self._max_retries = max_retries
        self._changed = changed
        self._running: dict[int, SessionProcess] = {}
        self._tries: dict[int, int] = {}
        self._deadline: float | None = None  # set when told to stop
        self._selector = selectors.DefaultSelector()

    def run(self, waiting: Sequence[SessionState], progress: Progress) -> None:
        """Run the sessions until every one has ended, or all that run have after `stop`."""
        queue = list(waiting)
        try:
            while self._running or (queue and self._deadline is None):
                while queue and self._deadline is None and self._has_room():
                    self._start(queue.pop(0))
                self._listen(progress)
                ended = [process for process in self._running.values() if process.over]
                queue[:0] = [p.state for p in ended if self._end(p, progress)]
                if self._deadline is not None and time.monotonic() > self._deadline:
                    self.kill()
        finally:
            self.kill()
            self._selector.close()

    def stop(self, number: int) -> None:
        """Pass on a signal that ends sessions; those that have not in time are killed."""
        self._deadline = time.monotonic() + GRACE
        for process in list(self._running.values()):
            process.stop(number)

    def send(self, number: int) -> None:
        """Pass a signal on to the sessions that run."""
        for process in list(self._running.values()):
            process.send(number)

    def kill(self) -> None:
        """End all sessions at once."""
        for process in list(self._running.values()):
            process.kill()

    def _has_room(self) -> bool:
        return len(self._running) < self._share.parallel

    def _start(self, state: SessionState) -> None:
        share = self._share
        orders = {
            "config": self._config,
            "threads": share.threads,
            "gpu": bool(share.gpus),
            "rows": self._judge is not None,
        }
        taken = {process.place for process in self._running.values()}
        place = next(place for place in count() if place not in taken)
        environment = share.environment(place)
        process = SessionProcess(state, place, self._folder, orders, environment)
        self._running[state.index] = process
        self._selector.register(process.messages, selectors.EVENT_READ, process)
        state.status, state.error = "running", None
        if self._deadline is not None:  # the signal came just before there was one to pass it to
            process.stop(signal.SIGTERM)
        self._changed()

    def _listen(self, progress: Progress) -> None:
        for key, _ in self._selector.select(timeout=LOOK_EVERY):
            process = cast("SessionProcess", key.data)
            for message in process.read():
                self._take_in(process, message, progress)

    def _take_in(
        self, process: SessionProcess, message: dict[str, Any], progress: Progress
    ) -> None:
        state = process.state
        state.frame = message.get("frame", state.frame)
        state.wall_time = message.get("wall_time", state.wall_time)
        state.arithmetic = message.get("arithmetic", state.arithmetic)
        if "note" in message:
            progress.note(f"session {state.index}: {message['note']}")
        if "row" in message and self._judge is not None and self._deadline is None:
            try:
                self.pruned = self._judge.report(state.index, *message["row"])
            except OSError as error:  # a full disk: the next row brings this one along
                progress.note(f"the study could not be told of a score: {error}")
            if self.pruned:
                self.stop(signal.SIGTERM)
        if message["state"] == "running":
            _show(process, "running", progress)

    def _end(self, process: SessionProcess, progress: Progress) -> bool:
        """Take note of a session's end; return whether it is to be tried again."""
        for message in process.read():
            self._take_in(process, message, progress)
        self._selector.unregister(process.messages)
        code = process.close()
        state = process.state
        del self._running[state.index]
        state.status, state.error = process.said["state"], process.said.get("error")
        if state.status == "running":
            state.status = "failed" if self._deadline is None else "interrupted"
            state.error = f"ended by {_reason(code)}; see session_{state.index}/session.log"
        if state.status == "interrupted" and self.pruned:
            state.status = "pruned"
        again = self._again(process)
        if again:
            progress.note(f"session {state.index} failed: {state.error}; trying again")
        elif self._judge is not None and state.status in LOST:
            self._judge.lose(state.index)
        _show(process, "queued" if again else state.status, progress)
        self._changed()
        return again

    def _again(self, process: SessionProcess) -> bool:
        """Return whether to try a session again, and count the tries."""
        index = process.state.index
        tries = self._tries[index] = self._tries.get(index, 0) + 1
        failed = process.state.status == "failed" and not process.said.get("final")
        return failed and tries <= self._max_retries and self._deadline is None


def _show(process: SessionProcess, state: str, progress: Progress) -> None:
    progress.update(
        process.state.index,
        state=state,
        frame=process.state.frame,
        last_return=process.said.get("last_return"),
        best_return=process.said.get("best_return"),
    )


def import_path() -> str:
    """Return where this process finds modules, in full, for sessions to find the same."""
    return os.pathsep.join(path or str(Path.cwd()) for path in sys.path)


def _reason(code: int) -> str:
    if code == -signal.SIGKILL:
        return "SIGKILL (the system kills processes that take too much memory)"
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
