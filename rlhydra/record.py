"""Reads what a trial left in its folder: trial.json, configuration, rows of its sessions."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhydra.metrics import Curve, FloatArray, Metric, trial_metrics
from rlhydra.schema import ConfigError

LOST = ("failed", "diverged")
"""Ends of a session whose returns do not count in the trial's metrics."""


@dataclass(frozen=True)
class Table:
    """Columns of numbers by name, every `step`-th row of a file; an empty cell is NaN."""

    path: Path
    columns: dict[str, FloatArray] = field(default_factory=dict[str, FloatArray])
    step: int = 1

    def __getitem__(self, name: str) -> FloatArray:
        if name in self.columns:
            return self.columns[name]
        if not self.columns:
            return np.empty(0)
        known = ", ".join(self.columns)
        raise ConfigError(str(self.path), f"expected a column named {name}, got {known}")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


@dataclass(frozen=True)
class SessionRecord:
    """One session: its entry in trial.json and its folder."""

    index: int
    folder: Path
    seed: int | None = None
    status: str = "running"
    frame: int | None = None
    wall_time: float | None = None
    error: str | None = None
    arithmetic: str | None = None  # of networks, where it was a choice

    @property
    def counted(self) -> bool:
        """Whether the session counts in the trial's metrics."""
        return self.status not in LOST

    @cached_property
    def eval(self) -> Table:
        """All rows of eval.csv."""
        return read_table(self.folder / "eval.csv")

    def episodes(self, rows: int) -> Table:
        """Return about `rows` evenly spaced rows of episodes.csv."""
        return read_table(self.folder / "episodes.csv", rows)

    def train(self, rows: int) -> Table:
        """Return about `rows` evenly spaced rows of train.csv."""
        return read_table(self.folder / "train.csv", rows)

    @property
    def curve(self) -> Curve:
        """The learning curve, as metrics want it."""
        return Curve(self.eval["frame"], self.eval["opt_step"], self.eval["return_mean"])


@dataclass(frozen=True)
class TrialRecord:
    """One trial: its trial.json, its configuration and its sessions."""

    folder: Path
    status: str
    objective: float | None
    random_return: float | None
    versions: dict[str, str]
    git_commit: str | None
    config_hash: str | None
    config: dict[str, Any]
    overrides: list[str]
    choices: dict[str, str]
    sessions: list[SessionRecord]

    @property
    def agent(self) -> str:
        """The agent's name: what was chosen on the command line, else its class."""
        target = str(_under(self.config, "agent", "_target_") or "agent").rpartition(".")[2]
        return self.choices.get("agent", target)

    @property
    def env(self) -> str:
        """The environment's id."""
        return str(_under(self.config, "env", "id") or self.choices.get("env", "environment"))

    @property
    def rigorous(self) -> bool:
        """Whether returns were measured in separate environments."""
        return bool(_under(self.config, "meta", "rigorous_eval"))

    @property
    def replicates(self) -> bool:
        """Whether sessions are independent: false where they trained one set of parameters."""
        return not _under(self.config, "meta", "distributed")

    @property
    def metric(self) -> str:
        """The name of the trial's objective."""
        return str(_under(self.config, "meta", "metric") or "final_return")

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The metrics over the sessions that count, measured afresh from their eval rows."""
        # Of sessions that trained one set of parameters, the first scored it.
        sessions = self.sessions if self.replicates else self.sessions[:1]
        curves = [session.curve for session in sessions if session.counted]
        return trial_metrics(curves, self.random_return, replicates=self.replicates)


def read_trial(folder: Path) -> TrialRecord:
    """Read the record of the trial in `folder`; rows only of sessions that run.

    Raises:
        ConfigError: where it is no trial's folder or its trial.json cannot be understood.
    """
    path = folder / "trial.json"
    if not path.is_file():
        raise ConfigError(
            str(folder), "expected the folder of a trial, with a trial.json; there is none here"
        )
    data = _json(path)
    try:
        sessions = [_session(folder, entry) for entry in _list(data.get("sessions"))]
        versions = _texts(data.get("versions"))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ConfigError(
            str(path), "expected sessions: [{index, seed, status, …}] and versions: {name: version}"
        ) from None
    hydra = folder / ".hydra"
    choices = _under(read_yaml(hydra / "hydra.yaml", resolve=False), "hydra", "runtime", "choices")
    overrides: Any = read_yaml(hydra / "overrides.yaml", resolve=False)
    return TrialRecord(
        folder=folder,
        status=str(data.get("status", "running")),
        objective=data.get("objective"),
        random_return=data.get("random_return"),
        versions=versions,
        git_commit=data.get("git_commit"),
        config_hash=data.get("config_hash"),
        config=read_yaml(hydra / "config.yaml", resolve=True),
        overrides=[str(item) for item in _list(overrides)],
        choices=_texts(choices),
        sessions=sorted(sessions, key=lambda session: session.index),
    )


def read_table(path: Path, rows: int | None = None) -> Table:
    """Read a CSV file of numbers: all of it, or about `rows` evenly spaced rows of a longer one.

    A file that is missing or empty is an empty table; a last line that was cut off is dropped.

    Raises:
        ConfigError: for a row that does not fit the header.
    """
    if not path.is_file():
        return Table(path)
    with path.open("rb") as file:
        header = file.readline().decode().strip()
        step = _step(path, rows)
        lines = [line.decode() for line in islice(file, 0, None, step)]
    if not header:
        return Table(path)
    names = next(csv.reader([header]))
    if lines and not lines[-1].endswith("\n") and lines[-1].count(",") + 1 < len(names):
        lines.pop()
    try:
        cells = [[float(cell or "nan") for cell in row] for row in csv.reader(lines) if row]
        values = np.array(cells, np.float64).reshape(len(cells), len(names))
    except ValueError:
        raise ConfigError(str(path), f"expected rows of {len(names)} numbers: {header}") from None
    return Table(path, {name: values[:, i] for i, name in enumerate(names)}, step)


def best_weights(folder: Path, session: int | None = None) -> tuple[int, Path]:
    """Return a session of the trial in `folder` and its best checkpoint.

    Without a number the session that reached the highest return, the first of equals.

    Raises:
        ConfigError: where there is no trial, or nothing in it has a score.
    """
    index = _best_session(folder) if session is None else session
    path = folder / f"session_{index}" / "checkpoints" / "best.json"
    if not path.is_file():
        problem = "expected the best weights of a session; it has no score yet, or there is none"
        raise ConfigError(str(path), problem)
    return index, path


def _best_session(folder: Path) -> int:
    scores: dict[int, float] = {}
    for session in read_trial(folder).sessions:
        returns = session.eval["return_mean"]
        if np.isfinite(returns).any():
            scores[session.index] = float(np.nanmax(returns))
    if not scores:
        raise ConfigError(str(folder), "no session has a score yet; let it train on")
    return max(scores, key=lambda index: (scores[index], -index))


def _step(path: Path, rows: int | None) -> int:
    """Return n such that each n-th line makes about `rows`, judging by the first lines."""
    if rows is None:
        return 1
    with path.open("rb") as file:
        start = file.read(1 << 16)
    lines = path.stat().st_size * start.count(b"\n") / max(len(start), 1)
    return max(1, math.ceil(lines / rows))


def _session(folder: Path, entry: dict[str, Any]) -> SessionRecord:
    index = int(entry["index"])
    known = ("seed", "status", "frame", "wall_time", "error", "arithmetic")
    values = {name: entry[name] for name in known if entry.get(name) is not None}
    record = SessionRecord(index, folder / f"session_{index}", **values)
    if record.status != "running" or not len(record.eval):
        return record
    rows = record.eval  # trial.json is written when a session begins or ends
    return replace(record, frame=int(rows["frame"][-1]), wall_time=float(rows["wall_time"][-1]))


def _json(path: Path) -> dict[str, Any]:
    try:
        data: Any = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ConfigError(str(path), f"expected JSON: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(str(path), "expected a JSON object with status, metrics and sessions")
    return cast("dict[str, Any]", data)


def read_yaml(path: Path, *, resolve: bool) -> dict[str, Any]:
    """Read what Hydra wrote; with `resolve` as it can be shown, `without_secrets`."""
    if not path.is_file():
        return {}
    try:
        config = OmegaConf.load(path)
    except (yaml.YAMLError, OSError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(str(path), f"expected YAML as Hydra writes it: {problem}") from None
    written = cast("dict[str, Any]", OmegaConf.to_container(config))
    return without_secrets(written) if resolve else written


def without_secrets(written: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with its references resolved, but for `oc.env`: those can be secrets.

    Where others do not resolve outside the run, all stay as written.
    """
    try:
        shown = OmegaConf.create(_literal(written))
        return cast("dict[str, Any]", OmegaConf.to_container(shown, resolve=True))
    except OmegaConfBaseException:
        return written


def _literal(value: Any) -> Any:
    """Return a configuration in which references to the process's environment are plain text."""
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list):
        return [_literal(item) for item in cast("list[Any]", value)]
    if isinstance(value, str) and "oc.env:" in value:
        return value.replace("${", "\\${")
    return value


def _list(value: Any) -> list[Any]:
    return list(value or ())


def _texts(group: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in cast("dict[Any, Any]", group or {}).items()}


def _under(group: Any, *keys: str) -> Any:
    for key in keys:
        group = cast("dict[str, Any]", group).get(key) if isinstance(group, dict) else None
    return group
