"""What a user sees of a trial before and after: the start panel, the closing table."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

from rich import box
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from rlhydra.record import LOST
from rlhydra.wording import count, duration, number

Mode = Literal["live", "plain", "silent"]

STYLES = {
    "running": "cyan",
    "completed": "green",
    "pruned": "yellow",
    "interrupted": "yellow",
    "diverged": "red",
    "failed": "red",
}
METRICS = (
    "final_return",
    "best_return",
    "strength",
    "sample_efficiency",
    "stability",
    "final_strength",
    "training_efficiency",
)


def choose_mode(progress: bool | None, stream: TextIO | None = None) -> Mode:
    """Return how to show progress: live in a terminal, plain lines elsewhere, silent if unwanted.

    Asks the stream itself, as rich takes a CI log with FORCE_COLOR for a terminal.
    """
    if progress is False:
        return "silent"
    console = Console(file=stream)
    return "live" if console.file.isatty() and not console.is_dumb_terminal else "plain"


def open_console(mode: Mode) -> Console:
    """Return the console for panel, progress and table of one trial; it says nothing if silent."""
    return Console(quiet=mode == "silent", highlight=False, emoji=False)


def start_panel(
    console: Console,
    *,
    agent: str,
    env: str,
    sessions: int,
    parallel: int,
    seed: int,
    max_frame: int,
    num_envs: int,
    common_clock: bool = False,
    device: str,
    cores: int,
    folder: Path | str,
    resumed: bool = False,
) -> None:
    """Print what is about to run, where, with what, and how to stop and resume it.

    `parallel` sessions run at once; `max_frame` is each session's, or with a `common_clock` that of
    all together.
    """
    where = near(folder)
    _rule(console, Text(f"{agent} on {env}" + (", resumed" if resumed else ""), "bold"))
    lines = {
        "sessions": f"{sessions}, {parallel} at once, seed {seed}",
        "frames": f"{max_frame:,} {'in all' if common_clock else 'a session'}, "
        f"in {num_envs} environment{_s(num_envs)}{' each' * common_clock}",
        "device": f"{device}, {cores} core{_s(cores)}",
        "folder": where,
        "stop": "Ctrl+C (a checkpoint is written first)",
        "resume": f"python -m rlhydra.resume {shlex.quote(where)}",
    }
    _list(console, lines)
    _rule(console)


def closing_table(
    console: Console,
    trial: Mapping[str, Any],
    *,
    title: str,
    files: Mapping[str, Path | str],
    commands: Mapping[str, str],
) -> None:
    """Print the result of a trial: a row a session, the mean with its interval, what to do next.

    `trial` is the content of trial.json, `files` are the paths that were written and `commands`
    those worth trying next, by what they are. As many metrics are shown as the width allows.
    """
    status = str(trial["status"])
    _rule(console, Text.assemble((f"{title}: ", "bold"), (status, STYLES.get(status, "bold"))))
    console.print(_results(trial, max(1, (console.width - 40) // 20)))
    for session in trial["sessions"]:
        if session.get("error"):
            text = f"session {session['index']} {session['status']}: {session['error']}"
            console.print(Text(text, STYLES.get(session["status"], "")), soft_wrap=True)
    _list(console, {name: near(path) for name, path in files.items()})
    _rule(console, "next")
    _list(console, commands)


def _results(trial: Mapping[str, Any], columns: int) -> Table:
    metrics: Mapping[str, Mapping[str, Any]] = trial["metrics"]
    names = [name for name in METRICS if name in metrics][:columns]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("session", "status", "frames", "time"):
        table.add_column(name, justify="left" if name == "status" else "right", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    counted = [s["index"] for s in trial["sessions"] if s["status"] not in LOST]
    for session in trial["sessions"]:
        status = Text(session["status"], STYLES.get(session["status"], "dim"))
        place = counted.index(session["index"]) if session["index"] in counted else None
        values = [number(_at(metrics[name]["sessions"], place)) for name in names]
        frame, seconds = count(session["frame"] or 0), duration(session["wall_time"])
        table.add_row(str(session["index"]), status, frame, seconds, *values)
    table.add_section()
    if len(trial["sessions"]) > 1:
        means = (number(metrics[name]["mean"]) for name in names)
        table.add_row("mean", "", "", "", *means, style="bold")
    intervals = [_interval(metrics[name]) for name in names]
    if any(intervals):
        counted = max(_counted(metrics[name]) for name in names)
        table.add_row("95 %" if counted > 2 else "spread", "", "", "", *intervals)
    baseline = number(trial.get("random_return"))
    table.add_row(
        "random",
        "",
        "",
        "",
        *(baseline if "_return" in name else "" for name in names),
        style="dim",
    )
    return table


def _interval(metric: Mapping[str, Any]) -> str:
    low, high = metric["low"], metric["high"]
    return "" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def _counted(metric: Mapping[str, Any]) -> int:
    return sum(value is not None for value in metric["sessions"])


def _at(values: Sequence[float | None], place: int | None) -> float | None:
    return values[place] if place is not None and place < len(values) else None


def _s(amount: int) -> str:
    return "" if amount == 1 else "s"


def near(path: Path | str) -> str:
    """Write a path from where the user stands, if it lies below."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _rule(console: Console, title: str | Text = "") -> None:
    console.print(Rule(title, align="left", style="dim"), width=min(console.width, 100))


def _list(console: Console, lines: Mapping[str, str | Text]) -> None:
    """Print labelled lines unbroken: a path or command cut in two could not be copied."""
    width = max(map(len, lines), default=0)
    for label, line in lines.items():
        text = Text.assemble((f"{label:<{width}}", "dim"), "  ", line)
        console.print(text, soft_wrap=True)
