"""Hogwild! (Niu et al., 2011, https://arxiv.org/abs/1106.5730): sessions train one learner.

Parameters, moments of optimizers, target networks, running statistics, the count of frames and the
last returns lie in one file in the trial's folder that all its sessions map into memory. Nobody
locks: numbers are read and written whole, so that an update which is lost costs a little progress,
and a session that is killed leaves no half number.

The file outlives the processes until the trial is completed. So joining is all there is to it: the
first session to come makes the file of what it has, every other, whether it is new, comes back
after a crash or goes on with a trial that was stopped, takes over what it finds.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlhydra.agent.agent import Agent
from rlhydra.agent.descent import Descent, lay_out
from rlhydra.clock import Clock
from rlhydra.env.environment import Game
from rlhydra.files import write_beside
from rlhydra.log import WINDOW
from rlhydra.resources import SHARED_FILE
from rlhydra.schema import ConfigError

Array = NDArray[Any]


class SharedClock(Clock):
    """Counts the frames of all sessions."""

    def __init__(self, clock: Clock, frames: Array, session: int) -> None:
        """Count in `frames[session]`, on from where the sessions, or `clock`, have come to."""
        frames[session] += max(0, clock.frame - int(frames.sum()))
        super().__init__(clock.max_frame, int(frames.sum()))
        self._frames, self._session = frames, session

    @property
    def own(self) -> int:
        """Frames of this session alone."""
        return int(self._frames[self._session])

    def tick(self, frames: int) -> None:
        """Advance by one vector step of this session, and by what the others did meanwhile."""
        self._previous = self.frame
        self._frames[self._session] += frames
        self.frame = int(self._frames.sum())


class Hogwild:
    """What a session has in common with the others of its trial."""

    def __init__(
        self,
        folder: Path,
        agent: Agent,
        clock: Clock,
        returns: Iterable[float],
        session: int,
        sessions: int,
        *,
        live: bool,
    ) -> None:
        """Join the trial in `folder`, with what `agent` and `clock` are where nobody was before.

        `returns` are the session's last true returns. With `live` the agent acts with the shared
        parameters, else with a copy, which takes them over after each of its steps: where a rollout
        must come from one policy, and where each session is to have a copy of its own.

        Raises:
            ConfigError: where the trial's file does not hold what the agent has.
        """
        shared = agent.shared()
        if not shared:
            raise ConfigError("agent", f"{type(agent).__name__} has nothing that can be shared")
        parts = [_Network(part) if isinstance(part, nn.Module) else part for part in shared]
        own = [part.shared() for part in parts]
        counts = (np.zeros(sessions, np.int64), np.zeros(sessions, np.int64))
        last = np.zeros((sessions, WINDOW, 2))  # frame and return of games
        tensors = [tensor.numpy() for part in own for tensor in part]
        path = folder / SHARED_FILE
        _make(path, session, [*counts, last, *tensors])
        (frames, self._games, self._last), numbers = _mapped(path, (*counts, last), tensors)
        for part, like in zip(parts, own, strict=True):
            part.share([numbers.pop(0) for _ in like], live=live)
        self._descents = [part for part in parts if isinstance(part, Descent)]
        self._session = session
        self.clock = SharedClock(clock, frames, session)
        if not self._games[session]:
            self._remember(returns, clock.frame)

    def add(self, games: Iterable[Game]) -> None:
        """Take in the games that this session finished."""
        self._remember((game.true_return for game in games), self.clock.frame)

    def _remember(self, returns: Iterable[float], frame: int) -> None:
        for value in filter(math.isfinite, returns):  # a session that diverges ends soon
            self._last[self._session, self._games[self._session] % WINDOW] = frame, value
            self._games[self._session] += 1

    @property
    def returns(self) -> list[float]:
        """The last true returns of all sessions together."""
        rows = [r[: min(n, WINDOW)] for r, n in zip(self._last, self._games, strict=True)]
        games = np.concatenate(rows)
        return games[np.argsort(games[:, 0], kind="stable")][-WINDOW:, 1].tolist()

    @property
    def opt_step(self) -> int:
        """Optimizer steps of all sessions: of the descent that they take most often."""
        return max(descent.steps for descent in self._descents)

    @contextlib.contextmanager
    def latest(self) -> Generator[None]:
        """Let the agent be the shared one as it is now, for what is scored or written."""
        with contextlib.ExitStack() as stack:
            for descent in self._descents:
                stack.enter_context(descent.latest())
            yield


class _Network:
    """A target network: always the shared one, as it changes slowly."""

    def __init__(self, net: nn.Module) -> None:
        self._parameters = list(net.parameters())

    def shared(self) -> list[Tensor]:
        return [torch.cat([p.detach().reshape(-1) for p in self._parameters])]

    def share(self, tensors: Sequence[Tensor], *, live: bool) -> None:
        lay_out(self._parameters, tensors[0])


def _make(path: Path, session: int, arrays: Sequence[Array]) -> None:
    """Make the file at `path` of `arrays`, unless it is there."""
    if path.exists():
        return
    # Whole from the start: a full disk would end a process that writes into a hole.
    data = b"".join(array.tobytes().ljust(_room(array), b"\0") for array in arrays)
    made = write_beside(path.parent / f"session_{session}" / path.name, data)
    with contextlib.suppress(FileExistsError):  # another session came first
        path.hardlink_to(made)
    made.unlink()


def _mapped(
    path: Path, counts: Sequence[Array], numbers: Sequence[Array]
) -> tuple[list[Array], list[Tensor]]:
    """Return arrays like these that lie in the file at `path`."""
    arrays = [*counts, *numbers]
    starts = np.cumsum([0, *map(_room, arrays)]).tolist()
    if path.stat().st_size != starts.pop():
        raise ConfigError(str(path), "it belongs to a trial of other settings; delete it")
    memory = np.memmap(path, np.uint8, "r+")
    found = [
        np.ndarray(array.shape, array.dtype, memory, start)
        for array, start in zip(arrays, starts, strict=True)
    ]
    tensors = [torch.from_numpy(array) for array in found[len(counts) :]]
    # Not by torch: it compares a number with itself, and others write between the two reads.
    if not all(np.isfinite(array).all() for array in found[len(counts) :]):
        problem = "it is damaged; delete it to go on from the sessions' checkpoints"
        raise ConfigError(str(path), problem)
    return found[: len(counts)], tensors


def _room(array: Array) -> int:
    return -(-array.nbytes // 64) * 64  # a line of the processors' caches is for one array only
