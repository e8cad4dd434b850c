"""What a session writes while it runs: episodes.csv, train.csv, eval.csv, and TensorBoard's events."""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhydra.clock import Clock
from rlhydra.env.environment import Game
from rlhydra.events import EventFile

EPISODES = ("frame", "wall_time", "return", "length")
TRAIN = ("frame", "wall_time", "opt_step", "fps")  # then the agent's metrics
EVAL = ("frame", "wall_time", "opt_step", "return_mean", "return_std", "episodes")

FLUSH_EVERY = 1.0  # seconds: rows wait in memory no longer, and cost no write each
WINDOW = 100  # finished games over which training returns are averaged

Value = float | int | None


class Rows:
    """A CSV file that only grows; rows reach the disk at `flush`."""

    def __init__(self, path: Path, columns: Sequence[str], size: int | None) -> None:
        """Open the file and keep its first `size` bytes, or with None no row."""
        header = (",".join(columns) + "\n").encode()
        size = len(header) if size is None else size
        self._pending = io.StringIO()
        self._file = path.open("ab")
        if path.stat().st_size > size:
            self._file.truncate(size)
        if self._file.seek(0, io.SEEK_END) == 0:
            self._file.write(header)

    def add(self, row: Iterable[Value]) -> None:
        """Add one row; None is an empty cell."""
        cells = ("" if value is None else repr(value) for value in row)
        self._pending.write(",".join(cells) + "\n")

    def flush(self) -> int:
        """Write the rows that wait and return the size of the file in bytes."""
        self._file.write(self._pending.getvalue().encode())
        self._file.flush()
        self._pending = io.StringIO()
        return self._file.tell()

    def close(self) -> None:
        """Write the rows that wait and close."""
        self.flush()
        self._file.close()


class Log:
    """The files of one session, and the averages that go into their rows."""

    def __init__(self, folder: Path, metrics: Sequence[str], state: dict[str, Any] | None) -> None:
        """Open the files; with a `state`, go on exactly behind the rows that it knows of."""
        self._metrics = tuple(metrics)
        sizes = (None, None, None) if state is None else state["sizes"]
        self._episodes = Rows(folder / "episodes.csv", EPISODES, sizes[0])
        self._train = Rows(folder / "train.csv", (*TRAIN, *metrics), sizes[1])
        self._eval = Rows(folder / "eval.csv", EVAL, sizes[2])
        self.returns: deque[float] = deque(maxlen=WINDOW)
        self.best_return: float | None = None
        self._sums = dict.fromkeys(self._metrics, 0.0)
        self._updates = 0
        self._elapsed = 0.0  # seconds of earlier processes
        self._last_frame = 0
        if state is not None:
            self._load(state)
        self._started = self._flushed = self._last_time = time.perf_counter()
        self.events = EventFile(folder, None if state is None else state["frame"] + 1)

    @property
    def wall_time(self) -> float:
        """Seconds that this session has run, in all its processes."""
        return self._elapsed + time.perf_counter() - self._started

    def games(self, games: Sequence[Game], frame: int) -> None:
        """Add a row for each finished game."""
        if games:
            now = round(self.wall_time, 3)
            for game in games:
                self.returns.append(game.true_return)
                self._episodes.add((frame, now, game.true_return, game.length))

    def add(self, metrics: Mapping[str, float]) -> None:
        """Take in what one update measured; rows hold the means since the row before."""
        if metrics:
            self._updates += 1
            for name, value in metrics.items():
                self._sums[name] += value

    def train(self, clock: Clock, opt_step: int) -> None:
        """Add a row to train.csv."""
        now = time.perf_counter()
        fps = (clock.frame - self._last_frame) / max(now - self._last_time, 1e-9)
        self._last_frame, self._last_time = clock.frame, now
        means: dict[str, Value] = dict.fromkeys(self._metrics)
        if self._updates:
            means = {name: total / self._updates for name, total in self._sums.items()}
            self._sums = dict.fromkeys(self._metrics, 0.0)
            self._updates = 0
        wall_time = round(self.wall_time, 3)
        self._train.add((clock.frame, wall_time, opt_step, round(fps, 1), *means.values()))
        tags = {"train/return": self.mean_return, "time/fps": fps, "time/opt_step": opt_step}
        self.events.scalars(clock.frame, {**tags, **means})
        if now - self._flushed >= FLUSH_EVERY:
            self.flush()

    @property
    def mean_return(self) -> float | None:
        """The mean of the last finished games' true returns."""
        return float(np.mean(self.returns)) if self.returns else None

    def eval(self, clock: Clock, opt_step: int, returns: Sequence[float]) -> bool:
        """Add a row to eval.csv; return whether its mean is the best so far."""
        mean = float(np.mean(returns)) if returns else None
        std = float(np.std(returns)) if returns else None
        wall_time = round(self.wall_time, 3)
        self._eval.add((clock.frame, wall_time, opt_step, mean, std, len(returns)))
        tags = {"eval/return": mean, "eval/return_std": std, "eval/episodes": len(returns)}
        self.events.scalars(clock.frame, tags)
        if mean is None or (self.best_return is not None and mean <= self.best_return):
            return False
        self.best_return = mean
        return True

    def flush(self) -> None:
        """Write all rows that wait."""
        for rows in (self._episodes, self._train, self._eval, self.events):
            rows.flush()
        self._flushed = time.perf_counter()

    def state(self, frame: int) -> dict[str, Any]:
        """Flush; return the files' sizes and the running averages."""
        self.flush()
        return {
            "frame": frame,
            "sizes": [rows.flush() for rows in (self._episodes, self._train, self._eval)],
            "returns": list(self.returns),
            "best_return": self.best_return,
            "sums": self._sums,
            "updates": self._updates,
            "elapsed": self.wall_time,
            "last_frame": self._last_frame,
        }

    def _load(self, state: dict[str, Any]) -> None:
        """Go on with the averages of `state`."""
        self.returns.extend(state["returns"])
        self.best_return = state["best_return"]
        self._sums, self._updates = state["sums"], state["updates"]
        self._elapsed, self._last_frame = state["elapsed"], state["last_frame"]

    def close(self) -> None:
        """Write everything and close the files."""
        for rows in (self._episodes, self._train, self._eval, self.events):
            rows.close()
