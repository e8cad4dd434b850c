"""What a session writes while it runs: three CSV files, and the same for TensorBoard."""

from __future__ import annotations

import contextlib
import json
import math
import textwrap
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rlhydra.clock import Clock
from rlhydra.env.environment import Game
from rlhydra.events import EventFile
from rlhydra.files import Growing
from rlhydra.schema import ConfigError

EPISODES = ("frame", "wall_time", "return", "length")
TRAIN = ("frame", "wall_time", "opt_step", "fps")  # then the agent's metrics
EVAL = ("frame", "wall_time", "opt_step", "return_mean", "return_std", "episodes")

FLUSH_EVERY = 1.0  # seconds: rows wait in memory no longer, and cost no write each
WINDOW = 100  # finished games over which training returns are averaged

Value = float | int | None


class Rows:
    """A CSV file that only grows; rows reach the disk at `flush`, whole."""

    def __init__(self, path: Path, columns: Sequence[str], state: dict[str, Any] | None) -> None:
        """Open the file; with a `state`, cut off the rows behind it, else all.

        Raises:
            ConfigError: where the rows are not those that `state` knows of.
        """
        header = (",".join(columns) + "\n").encode()
        self._pending: list[str] = []
        self._file = Growing(path, 0 if state is None else state["size"])
        with contextlib.ExitStack() as opened:
            opened.callback(self.close)
            if state is None:
                self._file.append(header)
            elif self.state() != state:
                problem = "its rows were changed or lost after the checkpoint was written"
                raise ConfigError(str(path), f"{problem}; choose another folder")
            elif _first_line(path) != header:
                problem = f"expected the columns {','.join(columns)}; choose another folder"
                raise ConfigError(str(path), problem)
            opened.pop_all()

    def add(self, row: Iterable[Value]) -> None:
        """Add one row; None is an empty cell."""
        self._pending.append(",".join(map(_cell, row)) + "\n")

    def flush(self) -> None:
        """Write the rows that wait.

        Raises:
            OSError: where the disk is full; the rows go on waiting.
        """
        if self._pending:
            self._file.append("".join(self._pending).encode())
            self._pending.clear()

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        self._file.sync()

    def state(self) -> dict[str, Any]:
        """Return what tells these rows from others."""
        return {"size": self._file.size, "checksum": self._file.checksum}

    def close(self) -> None:
        """Close the file; rows that wait are lost."""
        self._file.close()


def _cell(value: Value) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else repr(float(value))


def _arrays(tree: Mapping[str, Any], where: str) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _arrays(cast("Mapping[str, Any]", value), f"{where}/{name}")
        elif isinstance(value, np.ndarray):
            yield f"{where}/{name}", cast("NDArray[Any]", value)
        elif hasattr(value, "detach"):  # a tensor
            yield f"{where}/{name}", value.detach().cpu().numpy()


def _first_line(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.readline()


class Log:
    """The files of one session, and the averages that go into their rows."""

    def __init__(
        self,
        folder: Path,
        metrics: Sequence[str],
        state: dict[str, Any] | None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Open the files; with a `state`, go on exactly behind the rows that it knows of.

        Raises:
            ConfigError: where the rows are not those that `state` knows of.
        """
        self._metrics = tuple(metrics)
        self._warn = warn
        episodes, train, evaluation = (None,) * 3 if state is None else state["rows"]
        with contextlib.ExitStack() as opened:
            self._episodes = Rows(folder / "episodes.csv", EPISODES, episodes)
            opened.callback(self._episodes.close)
            self._train = Rows(folder / "train.csv", (*TRAIN, *metrics), train)
            opened.callback(self._train.close)
            self._eval = Rows(folder / "eval.csv", EVAL, evaluation)
            opened.pop_all()
        self._rows = (self._episodes, self._train, self._eval)
        self.returns: deque[float] = deque(maxlen=WINDOW)
        self.best_return: float | None = None
        self._sums = dict.fromkeys(self._metrics, 0.0)
        self._updates = 0
        self._elapsed = 0.0  # seconds of earlier processes
        self._last_row = (0, 0.0)  # frame and wall time
        self._started = self._flushed = time.perf_counter()
        if state is not None:
            self._load(state)
        self.events = EventFile(folder, None if state is None else state["frame"] + 1)

    @staticmethod
    def has_rows(folder: Path) -> bool:
        """Return whether a session has left rows in `folder`."""
        paths = (folder / f"{name}.csv" for name in ("episodes", "train", "eval"))
        return any(path.exists() and path.read_bytes().count(b"\n") > 1 for path in paths)

    @property
    def wall_time(self) -> float:
        """Seconds that this session has run, in all its processes."""
        return self._elapsed + time.perf_counter() - self._started

    def games(self, games: Sequence[Game], frame: int) -> None:
        """Add a row for each finished game."""
        now = round(self.wall_time, 3)
        for game in games:
            self.returns.append(game.true_return)
            self._episodes.add((frame, now, game.true_return, game.length))
        self._flush_in_time()

    def add(self, metrics: Mapping[str, float]) -> None:
        """Take in what one update measured; rows hold the means since the row before."""
        if metrics:
            self._updates += 1
            for name, value in metrics.items():
                self._sums[name] += value

    def train(self, clock: Clock, opt_step: int) -> None:
        """Add a row to train.csv."""
        now = self.wall_time
        frame, then = self._last_row
        self._last_row = (clock.frame, now)
        fps = round((clock.frame - frame) / max(now - then, 1e-6), 1)
        means: dict[str, Value] = dict.fromkeys(self._metrics)
        if self._updates:
            means = {name: total / self._updates for name, total in self._sums.items()}
            self._sums = dict.fromkeys(self._metrics, 0.0)
            self._updates = 0
        self._train.add((clock.frame, round(now, 3), opt_step, fps, *means.values()))
        tags = {"train/return": self.mean_return, "time/fps": fps, "time/opt_step": opt_step}
        self.events.scalars(clock.frame, {**tags, **means})
        self._flush_in_time()

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
        self._flush_in_time()
        if mean is None or math.isnan(mean):
            return False
        if self.best_return is not None and mean <= self.best_return:
            return False
        self.best_return = mean
        return True

    def describe(self, config: Mapping[str, Any]) -> None:
        """Let TensorBoard show the configuration."""
        text = json.dumps(config, indent=2, default=str)
        self.events.text("config", textwrap.indent(text, "    "))  # as a block of code

    def distributions(self, frame: int, weights: Mapping[str, Any]) -> None:
        """Let TensorBoard show the distribution of each array or tensor of nested weights."""
        self.events.histograms(frame, dict(_arrays(weights, "weights")))

    def film(self, frame: int, animation: bytes) -> None:
        """Let TensorBoard show a game of evaluation, a GIF."""
        self.events.image(frame, "eval/game", animation)

    def _flush_in_time(self) -> None:
        """Write what has waited for so long; where the disk is full, say so and let it wait on."""
        now = time.perf_counter()
        if now - self._flushed < FLUSH_EVERY:
            return
        self._flushed = now
        try:
            self.flush()
        except OSError as error:
            self._warn(f"rows cannot be written: {error}; they wait in memory")

    def flush(self) -> None:
        """Write all rows that wait.

        Raises:
            OSError: where the disk is full; what could not be written goes on waiting.
        """
        for rows in (*self._rows, self.events):
            rows.flush()

    def state(self, frame: int) -> dict[str, Any]:
        """Write everything to the disk; return what identifies the rows, and the running averages.

        Raises:
            OSError: where the disk is full.
        """
        self.flush()
        for rows in self._rows:
            rows.sync()
        return {
            "frame": frame,
            "rows": [rows.state() for rows in self._rows],
            "returns": list(self.returns),
            "best_return": self.best_return,
            "sums": dict(self._sums),
            "updates": self._updates,
            "elapsed": self.wall_time,
            "last_row": self._last_row,
        }

    def _load(self, state: dict[str, Any]) -> None:
        """Go on with the averages of `state`."""
        self.returns.extend(state["returns"])
        self.best_return = state["best_return"]
        self._sums, self._updates = state["sums"], state["updates"]
        self._elapsed, self._last_row = state["elapsed"], tuple(state["last_row"])

    def close(self) -> None:
        """Write everything and close the files.

        Raises:
            OSError: where the disk is full.
        """
        try:
            self.flush()
        finally:
            for rows in (*self._rows, self.events):
                rows.close()
