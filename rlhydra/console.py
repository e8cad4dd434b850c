"""What a user sees of a trial: the start panel, the progress of its sessions, the closing table."""

import math
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TextIO

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from rlhydra.pace import Pace, time_left
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
FINAL = frozenset(STYLES) - {"running"}
METRICS = (
    "final_return",
    "best_return",
    "strength",
    "sample_efficiency",
    "stability",
    "final_strength",
    "training_efficiency",
)
PLAIN_PERIOD = 10.0  # seconds between two plain lines of a session


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


@dataclass
class _Session:
    state: str = "queued"
    last_return: float | None = None
    best_return: float | None = None
    pace: Pace = field(default_factory=Pace)
    printed: float = -math.inf

    @property
    def rate(self) -> float | None:
        return self.pace.average if self.pace.phase == "ended" else self.pace.rate


class Progress:
    """One live display of all sessions, or plain lines, or nothing.

    A session's `frame` is that of its clock, under Hogwild! of the clock that all share.
    """

    def __init__(
        self,
        sessions: int,
        max_frame: int,
        mode: Mode,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        common_clock: bool = False,
    ) -> None:
        self._common_clock = common_clock
        self._sessions = [_Session() for _ in range(sessions)]
        self._max_frame = max_frame
        self._mode = mode
        self._console = console or open_console(mode)
        self._clock = clock
        self._start = clock()
        self._live = Live(
            console=self._console,
            get_renderable=self.table,
            refresh_per_second=2,  # the sessions want the cores
            transient=True,  # the closing table takes its place
        )

    def __enter__(self) -> Self:
        if self._mode == "live":
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the display; again does nothing."""
        self._live.stop()

    def update(
        self,
        index: int,
        *,
        state: str,
        frame: int,
        last_return: float | None = None,
        best_return: float | None = None,
    ) -> None:
        """Take a status message of session `index`; in plain mode print its line when due."""
        session, now = self._sessions[index], self._clock()
        changed = state != session.state
        session.state, session.last_return, session.best_return = state, last_return, best_return
        if state != "queued":
            session.pace.phase = "ended" if state in FINAL else "running"
            session.pace.add(now, frame)
        if self._mode == "plain" and (changed or now - session.printed >= PLAIN_PERIOD):
            session.printed = now
            self.note(self._line(index))

    def note(self, text: str) -> None:
        """Print a line of its own, above the live display."""
        self._console.print(text, soft_wrap=True, markup=False)

    def time_left(self) -> list[float | None]:
        """Return the seconds until each session ends, None where nothing is known or it is over."""
        return time_left([s.pace for s in self._sessions], self._max_frame, self._clock())

    def _line(self, index: int) -> str:
        session = self._sessions[index]
        head = f"{duration(self._clock() - self._start):>5} session {index} {session.state:<9}"
        if not session.pace.frame:
            return head
        frames = f"{count(session.pace.frame)}/{count(self._max_frame)}"
        rate = f"{count(session.rate)}/s"
        return (
            f"{head} {frames:>11} {rate:>8} last {number(session.last_return):>6} "
            f"best {number(session.best_return):>6} left {duration(self.time_left()[index])}"
        )

    def table(self) -> Table:
        """Return the live display as it stands."""
        width = min(self._console.width, 110)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), width=width)
        table.add_column("session", justify="right")
        table.add_column("state", min_width=9, no_wrap=True)
        table.add_column("", ratio=1)
        for name, least in {"frames": 11, "frames/s": 8, "last": 6, "best": 6, "left": 5}.items():
            table.add_column(name, justify="right", min_width=least, no_wrap=True)
        left = self.time_left()
        shown = self._shown()
        for index in shown:
            table.add_row(*self._row(index, left[index]))
        if len(self._sessions) > 1:
            table.add_row(*self._total(left), style="bold")
        hidden = Counter(s.state for i, s in enumerate(self._sessions) if i not in shown)
        more = "".join(f", {n} {state} not shown" for state, n in hidden.items())
        table.caption = f"elapsed {duration(self._clock() - self._start)}{more}"
        table.caption_justify = "left"
        return table

    def _shown(self) -> list[int]:
        """Choose the sessions that fit on the screen: running before queued before ended."""
        order = {"running": 0, "queued": 1, "ended": 2}
        room = max(1, self._console.height - 5)
        indices = sorted(
            range(len(self._sessions)), key=lambda index: order[self._sessions[index].pace.phase]
        )
        return sorted(indices[:room])

    def _row(self, index: int, left: float | None) -> Iterable[Text | ProgressBar | str]:
        session = self._sessions[index]
        return (
            str(index),
            Text(session.state, STYLES.get(session.state, "dim")),
            _bar(session.pace.frame, self._max_frame),
            f"{count(session.pace.frame)}/{count(self._max_frame)}",
            count(session.rate),
            number(session.last_return),
            number(session.best_return),
            duration(left),
        )

    def _total(self, left: list[float | None]) -> Iterable[ProgressBar | str]:
        paces = [session.pace for session in self._sessions]
        frames, goal = [pace.frame for pace in paces], self._max_frame
        rates = [pace.rate for pace in paces if pace.phase == "running" and pace.rate]
        done, rate = max(frames), max(rates, default=None)
        if not self._common_clock:
            done, goal, rate = sum(frames), goal * len(paces), sum(rates) or None
        known = [seconds for seconds in left if seconds is not None]
        return (
            "all",
            f"{sum(pace.phase == 'ended' for pace in paces)} of {len(paces)} done",
            _bar(done, goal),
            f"{count(done)}/{count(goal)}",
            count(rate),
            "",
            "",
            duration(max(known, default=None)),
        )


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


def _bar(frames: int, goal: int) -> ProgressBar:
    return ProgressBar(
        goal, min(frames, goal), complete_style=STYLES["running"], finished_style="green"
    )


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
