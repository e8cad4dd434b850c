"""One process a folder: the locks of a trial and of its sessions."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Generator
from pathlib import Path

from filelock import FileLock, Timeout

from rlhydra.files import write_atomically
from rlhydra.schema import ConfigError

PATIENCE = 60.0  # seconds that a session waits for one whose trial was killed


@contextlib.contextmanager
def sole_owner(folder: Path) -> Generator[None]:
    """Own the trial in `folder`. The lock of a process that died is no obstacle.

    Raises:
        ConfigError: naming the owner, where another process runs the trial.
    """
    lock = FileLock(folder / ".lock")
    # A file of its own: whoever tries to get the lock empties the lock's file.
    note = folder / ".owner.json"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        problem = f"{_owner(note)} is running the trial in this folder; wait for it or stop it"
        raise ConfigError(str(folder), problem) from None
    try:
        with contextlib.suppress(OSError):  # a full disk
            owner = {"pid": os.getpid(), "host": socket.gethostname()}
            write_atomically(note, json.dumps(owner).encode())
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _owner(note: Path) -> str:
    try:
        owner = json.loads(note.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


@contextlib.contextmanager
def sole_writer(folder: Path, given_up: Callable[[], bool]) -> Generator[None]:
    """Own the files of the session in `folder`, once nobody else does.

    A session outlives a trial that was killed by the time its last checkpoint takes. The lock
    belongs to the process alone: environments forked from it do not hold it when it is gone.

    Raises:
        ConfigError: where another session keeps the lock, or `given_up` says to wait no longer.
    """
    with (folder / ".lock").open("wb") as file:
        end = time.monotonic() + PATIENCE
        while not _locked(file.fileno()):
            if time.monotonic() > end or given_up():
                raise ConfigError(str(folder), "another process is still training this session")
            time.sleep(0.05)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
