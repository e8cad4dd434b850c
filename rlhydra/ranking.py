"""The results of a sweep: its trials ranked, as a table, trials.csv, report.md and pictures."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhydra.console import STYLES
from rlhydra.files import write_atomically
from rlhydra.metrics import TRIAL_METRICS
from rlhydra.record import TrialRecord, read_trial
from rlhydra.wording import count, number

ORDER = ("completed", "pruned", "diverged", "failed", "interrupted", "running", "queued")
CHECKPOINTS = "session_*/checkpoints"
NOT_VARIED = ("meta.max_trial", "meta.progress")
VALIDATE = "validate"  # the folder of the trials that were run again, in the sweep's
VALIDATION = ("trial", "in the search", "fresh seeds", "status", "score", "95 %")


@dataclass(frozen=True)
class Entry:
    """One trial of a sweep, with its place."""

    rank: int
    number: int
    trial: TrialRecord
    params: dict[str, str]
    error: str | None
    again: TrialRecord | None  # the same settings with fresh seeds, by `rlhydra.validate`

    @property
    def score(self) -> float | None:
        """The objective of a completed trial, the last score of another."""
        return score(self.trial)

    @property
    def interval(self) -> str:
        """The 95 % interval of the score as text."""
        return interval(self.trial)

    @property
    def frames(self) -> int:
        """Frames of all its sessions."""
        return sum(session.frame or 0 for session in self.trial.sessions)

    @property
    def wall_time(self) -> float:
        """Seconds of its longest session."""
        return max((session.wall_time or 0.0 for session in self.trial.sessions), default=0.0)


def read_experiment(folder: Path) -> list[Entry]:
    """Return the trials of the sweep in `folder` that were begun, the best first."""
    paths = sorted(
        (path for path in folder.iterdir() if path.name.isdigit() and _begun(path)),
        key=lambda path: (len(path.name), path.name),
    )
    trials = [read_trial(path) for path in paths]
    varied = _varied(trials)
    trials.sort(key=_place)
    return [
        Entry(rank, int(trial.folder.name), trial,
              {key: _params(trial).get(key, "") for key in varied}, _error(trial),
              _again(folder / VALIDATE / trial.folder.name))
        for rank, trial in enumerate(trials, 1)
    ]  # fmt: skip


def _again(folder: Path) -> TrialRecord | None:
    return read_trial(folder) if _begun(folder) else None


def _begun(folder: Path) -> bool:
    return (folder / "trial.json").exists()


def write_experiment(folder: Path, *, drawn: bool = True) -> list[Entry]:
    """Write trials.csv, report.md and plots/ of the sweep in `folder`; return its trials.

    Unless `drawn`, only trials.csv.
    """
    entries = read_experiment(folder)
    write_atomically(folder / "trials.csv", _csv(entries).encode())
    if entries and drawn:
        from rlhydra.page import write_page
        from rlhydra.sweep_report import write_report

        write_page(write_report(folder, entries))
    return entries


def table(entries: Sequence[Entry], width: int = 80) -> Table:
    """Return the ranked table, with as many parameters as the width allows."""
    keys = list(entries[0].params) if entries else []
    short = short_names(keys)
    bounds = [entry.interval for entry in entries]
    shown = keys[: max(1, (width - (58 if any(bounds) else 42)) // 12)]
    result = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    names = ("rank", "trial", "status", "frames", "score", *(["95 %"] if any(bounds) else []))
    for name in (*names, *(short[key] for key in shown)):
        result.add_column(name, justify="left" if name == "status" else "right")
    for entry, bound in zip(entries, bounds, strict=True):
        status = Text(entry.trial.status, STYLES.get(entry.trial.status, "dim"))
        values = [Text(brief(entry.params[key])) for key in shown]
        if any(bounds):
            values.insert(0, Text(bound))
        place, name = str(entry.rank), str(entry.number)
        result.add_row(place, name, status, count(entry.frames), number(entry.score), *values)
    return result


def closing(folder: Path, console: Console) -> None:
    """Print the ranked table of the sweep in `folder` and what to do next."""
    entries = read_experiment(folder)
    if not entries:
        return
    rows = max(5, console.height - 8)
    console.print(table(entries[:rows], console.width))
    if len(entries) > rows:
        console.print(f"{len(entries) - rows} more in {folder / 'trials.csv'}", soft_wrap=True)
    for entry in entries:
        if entry.error:
            text = Text(f"trial {entry.number} {entry.trial.status}: {entry.error}", "red")
            console.print(text, soft_wrap=True)
    if any(entry.again for entry in entries):
        console.print(validation(entries))
    for label, line in _next(folder, entries).items():
        console.print(Text.assemble((f"{label:<9}", "dim"), line), soft_wrap=True)


def _next(folder: Path, entries: Sequence[Entry]) -> dict[str, str]:
    report = folder / "report.md"
    lines = {"report": str(report)} if report.exists() else {}
    if any(entry.trial.status in ("interrupted", "running") for entry in entries):
        lines["resume"] = shlex.join(["python", "-m", "rlhydra.resume", str(folder)])
    if entries[0].trial.status == "completed":
        lines["validate"] = validate_command(folder)
    lines["curves"] = shlex.join(["tensorboard", "--logdir", str(folder)])
    return lines


def validation(entries: Sequence[Entry]) -> Table:
    """Return the table of the trials that were run again with fresh seeds."""
    result = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in VALIDATION:
        result.add_column(name, justify="left" if name == "status" else "right")
    for row in validated(entries):
        result.add_row(*map(Text, row))
    return result


def validated(entries: Sequence[Entry]) -> list[tuple[str, ...]]:
    """Return the rows of that table, under the names of VALIDATION."""
    return [
        (str(entry.number), number(entry.score), str(len(again.sessions)), again.status,
         number(score(again)), interval(again))
        for entry in entries if (again := entry.again) is not None
    ]  # fmt: skip


def validate_command(folder: Path) -> str:
    """Return the command that runs the best trials again with fresh seeds."""
    return shlex.join(["python", "-m", "rlhydra.validate", str(folder)])


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete the checkpoints of all finished trials but the best `keep`."""
    for entry in read_experiment(folder)[keep:]:
        if entry.trial.status in ("completed", "pruned", "diverged", "failed"):
            for path in entry.trial.folder.glob(CHECKPOINTS):
                shutil.rmtree(path)


def _csv(entries: Sequence[Entry]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = list(entries[0].params) if entries else []
    head = ("rank", "trial", "status", "objective", "score", "low", "high", "frames", "wall_time")
    writer.writerow([*head, *keys, *TRIAL_METRICS, "error"])
    for entry in entries:
        trial = entry.trial
        means = [trial.metrics[name]["mean"] for name in TRIAL_METRICS]
        scores = (trial.objective, entry.score, *_bounds(trial))
        row = [entry.rank, entry.number, trial.status, *scores, entry.frames, entry.wall_time]
        writer.writerow([*row, *entry.params.values(), *means, entry.error or ""])
    return text.getvalue()


def _place(trial: TrialRecord) -> tuple[int, float]:
    reached = score(trial)
    status = ORDER.index(trial.status) if trial.status in ORDER else len(ORDER)
    return status, math.inf if reached is None or math.isnan(reached) else -reached


def score(trial: TrialRecord) -> float | None:
    """Return the objective of a completed trial, the last score of another."""
    if trial.status == "completed":
        return trial.objective
    return trial.metrics[trial.metric]["mean"]


def interval(trial: TrialRecord) -> str:
    """Return the 95 % interval of a trial's score as text."""
    low, high = _bounds(trial)
    return "" if low is None else f"[{number(low)}, {number(high)}]"


def _bounds(trial: TrialRecord) -> tuple[float | None, float | None]:
    metric = trial.metrics[trial.metric]
    return metric["low"], metric["high"]


def _params(trial: TrialRecord) -> dict[str, str]:
    pairs = (text.partition("=") for text in trial.overrides)
    return {key.lstrip("+"): value for key, _, value in pairs}


def _varied(trials: Sequence[TrialRecord]) -> list[str]:
    """Return the settings in which the trials' command lines differ."""
    each = [_params(trial) for trial in trials]
    keys = dict.fromkeys(key for params in each for key in params)
    return [
        key
        for key in keys
        if key not in NOT_VARIED and len({params.get(key) for params in each}) > 1
    ]


def brief(text: str) -> str:
    """Round what is a number of many digits; trials.csv has them all."""
    try:
        value = float(text)
    except ValueError:
        return text
    return text if len(text) <= 6 else f"{value:.4g}"


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return by each setting its last word, where that tells it apart, or the whole name."""
    last = [key.rpartition(".")[2] for key in keys]
    return {
        key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)
    }


def _error(trial: TrialRecord) -> str | None:
    errors = [f"session {s.index}: {s.error}" for s in trial.sessions if s.error]
    data = json.loads((trial.folder / "trial.json").read_text(encoding="utf-8"))
    return data.get("error") or (errors[0] if errors else None)
