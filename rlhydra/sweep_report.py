"""The report of a sweep on one page: the ranking, its trials' curves, what mattered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlhydra.experiment import JOURNAL
from rlhydra.files import write_atomically
from rlhydra.ranking import VALIDATION, Entry, brief, short_names, validate_command, validated
from rlhydra.search import importances
from rlhydra.sweep_plot import draw_curves, draw_importances, draw_parallel
from rlhydra.wording import count, duration, number


def write_report(folder: Path, entries: Sequence[Entry]) -> Path:
    """Write report.md and plots/ into the sweep's folder; return the report."""
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    weights = importances(folder) if (folder / JOURNAL).exists() else {}
    parts = [f"# {folder.name}", _summary(entries), "## Ranking", _ranking(entries)]
    parts += _validation(folder, entries)
    parts += _section("Learning curves", plots / "curves.png", draw_curves, entries)
    parts += _section("Parameters", plots / "parameters.png", draw_parallel, entries)
    parts += _section("What mattered", plots / "importances.png", draw_importances, weights)
    pruned = [entry for entry in entries if entry.trial.status == "pruned"]
    if pruned:
        parts += ["## Stopped early", _stopped(pruned)]
    path = folder / "report.md"
    write_atomically(path, ("\n\n".join(parts) + "\n").encode())
    return path


def _section(title: str, path: Path, draw: Callable[[Any, Path], bool], content: Any) -> list[str]:
    if not draw(content, path):
        return []
    return [f"## {title}", f"![{title}](plots/{path.name})"]


def _summary(entries: Sequence[Entry]) -> str:
    states = [entry.trial.status for entry in entries]
    parts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    frames = count(sum(entry.frames for entry in entries))
    return f"{len(entries)} trials: {', '.join(parts)} · {frames} frames"


def _ranking(entries: Sequence[Entry]) -> str:
    keys = list(entries[0].params)
    names = short_names(keys)
    heads = ["rank", "trial", "status", "score", "95 %", "frames", "wall time"]
    rows = [[*heads, *(names[key] for key in keys), "error"]]
    for entry in entries:
        link = f"[{entry.number}]({entry.number}/report.md)"
        cells = [str(entry.rank), link, entry.trial.status, number(entry.score), entry.interval]
        cells += [count(entry.frames), duration(entry.wall_time)]
        rows.append([*cells, *map(brief, entry.params.values()), entry.error or ""])
    return _markdown(rows)


def _validation(folder: Path, entries: Sequence[Entry]) -> list[str]:
    if entries[0].trial.status != "completed":
        return []
    text = "A score that was picked as the best of many flatters itself. The best again, with fresh"
    parts = ["## Validation", f"{text} seeds:", f"```sh\n{validate_command(folder)}\n```"]
    rows = validated(entries)
    return [*parts, _markdown([VALIDATION, *rows])] if rows else parts


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table, whose first row is its head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _stopped(entries: Sequence[Entry]) -> str:
    rows = [["trial", "frame", "score then"]]
    for entry in sorted(entries, key=lambda entry: entry.frames):
        frame = max((session.frame or 0 for session in entry.trial.sessions), default=0)
        rows.append([str(entry.number), count(frame), number(entry.score)])
    return _markdown(rows)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
