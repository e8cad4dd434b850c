"""The progress of a trial's sessions: one live display, or plain lines."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlhydra.console import STYLES, Mode, open_console
from rlhydra.pace import Pace, time_left
from rlhydra.wording import count, duration, number

FINAL = frozenset(STYLES) - {"running"}
PLAIN_PERIOD = 10.0  # seconds between two plain lines of a session


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


def _bar(frames: int, goal: int) -> ProgressBar:
    return ProgressBar(
        goal, min(frames, goal), complete_style=STYLES["running"], finished_style="green"
    )
