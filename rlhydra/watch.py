"""What a user sees of a sweep while it runs, read from its folder, whatever launcher runs it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from rlhydra.console import STYLES, Mode
from rlhydra.ranking import ORDER
from rlhydra.record import read_trial
from rlhydra.wording import count, duration, number

PERIOD = 2.0  # seconds between two looks
ENDED = ("completed", "pruned", "diverged", "failed")


@dataclass
class _Seen:
    """What is known of the sweep."""

    folder: Path
    trials: int
    started: float = field(default_factory=time.monotonic)
    ended: dict[int, tuple[str, float | None, int]] = field(
        default_factory=dict[int, tuple[str, float | None, int]]
    )
    running: dict[int, int] = field(default_factory=dict[int, int])
    goal: int = 0  # frames of a whole trial
    before: int = 0  # frames that were there at the start

    def look(self) -> list[str]:
        """Read the folders of trials that have not ended; return a line for each that has now."""
        lines: list[str] = []
        running: dict[int, int] = {}
        for index in range(self.trials):
            path = self.folder / str(index)
            if index in self.ended or not (path / "trial.json").exists():
                continue
            trial = read_trial(path)
            frames = sum(int(s.eval["frame"][-1]) if len(s.eval) else 0 for s in trial.sessions)
            self.goal = self.goal or _goal(trial.config)
            if trial.status in ENDED:
                score = trial.metrics[trial.metric]["mean"]
                self.ended[index] = (trial.status, score, frames)
                lines.append(f"trial {index} {trial.status:<9} {number(score):>8} {count(frames)}")
            elif trial.status == "running":
                running[index] = frames
        self.running = running  # at once: it is shown by another thread
        return lines

    def text(self) -> Text:
        """Return one line: how many trials are where, the best so far, the time left."""
        states = Counter(status for status, _, _ in self.ended.values())
        states["running"] = len(self.running)
        states["queued"] = self.trials - len(self.ended) - len(self.running)
        parts = [(f"{states[s]} {s}  ", STYLES.get(s, "dim")) for s in ORDER if states[s]]
        scores = [score for status, score, _ in self.ended.values()
                  if status == "completed" and score is not None]  # fmt: skip
        best = f"best {number(max(scores))}  " if scores else ""
        elapsed = time.monotonic() - self.started
        left = f"elapsed {duration(elapsed)}  left {duration(self._left(elapsed))}"
        return Text.assemble(*parts, best, left)

    def _left(self, elapsed: float) -> float | None:
        done = sum(frames for _, _, frames in self.ended.values())
        rate = (done + sum(self.running.values()) - self.before) / max(elapsed, 1e-9)
        if rate <= 0 or not self.goal:
            return None
        # A trial that is to come takes what those that ended took, stopped ones included.
        usual = done / len(self.ended) if self.ended else self.goal
        queued = self.trials - len(self.ended) - len(self.running)
        rest = queued * usual + sum(max(0, usual - frames) for frames in self.running.values())
        return rest / rate


def _goal(config: dict[str, dict[str, int]]) -> int:
    with contextlib.suppress(KeyError, TypeError, ValueError):
        return int(float(config["env"]["max_frame"])) * int(config["meta"]["max_session"])
    return 0


@contextlib.contextmanager
def watch(folder: Path, trials: int, mode: Mode, console: Console) -> Generator[None]:
    """Show how the sweep goes until the end of the context."""
    console.print(f"{trials} trial{'s' * (trials != 1)} in {folder}", soft_wrap=True)
    if mode == "silent":
        yield
        return
    seen = _Seen(folder, trials)
    seen.look()
    seen.before = sum(frames for _, _, frames in seen.ended.values())
    seen.before += sum(seen.running.values())
    live = Live(console=console, get_renderable=seen.text, refresh_per_second=1, transient=True)
    over = threading.Event()

    def follow() -> None:
        while not over.wait(PERIOD):
            for line in seen.look():
                console.print(line, highlight=False)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    with contextlib.ExitStack() as stack:
        if mode == "live":
            stack.enter_context(live)
        try:
            yield
        finally:
            over.set()
            thread.join()
            for line in seen.look():
                console.print(line, highlight=False)
