"""A session's line to its trial: orders and signals come in, messages go out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Generator
from typing import Any

STOP = (signal.SIGTERM, signal.SIGINT)
SAVE = signal.SIGUSR1
SIGNALS = frozenset({*STOP, SAVE})


class Stopped(BaseException):
    """The session was told to stop where there is nothing to finish."""


class Channel:
    """Orders come in on stdin, whose end is the trial's death; messages go out as lines of JSON."""

    def __init__(self, messages: int) -> None:
        self.stopped = False
        self.save_wanted = False
        self._messages = messages  # file descriptor
        self._abrupt = False

    def orders(self) -> dict[str, Any]:
        """Return what the trial wants done; from here on, signals and its death are noticed.

        A trial starts us with the signals blocked, so none was lost since.
        """
        for number in STOP:
            signal.signal(number, self._stop)
        signal.signal(SAVE, self._save)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        line = sys.stdin.readline()
        if not line:
            raise Stopped
        threading.Thread(target=self._await_end, daemon=True).start()
        return json.loads(line)

    def _await_end(self) -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    def _stop(self, *_: object) -> None:
        self.stopped = True
        if self._abrupt:
            raise Stopped

    def _save(self, *_: object) -> None:
        self.save_wanted = True

    @contextlib.contextmanager
    def abrupt(self) -> Generator[None]:
        """Let a stop raise `Stopped` here, however deep: for long work that is not to be kept."""
        self._abrupt = True
        try:
            if self.stopped:
                raise Stopped
            yield
        finally:
            self._abrupt = False

    def send(self, **message: Any) -> None:
        """Send one message; a trial that is gone is no reason to fail."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._messages, (json.dumps(message) + "\n").encode())
