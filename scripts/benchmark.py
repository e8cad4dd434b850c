"""Runs the rows of benchmark.yaml as trials and writes the table of what they reached."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from typing import Any

import yaml

from rlhydra.record import TrialRecord, read_trial
from rlhydra.wording import count, number

ROOT = Path(__file__).resolve().parent.parent
HEADER = """# What the agents reach

Written by `scripts/benchmark`; each row is one trial, by its own command. Score: `final_return`,
the mean of the last 100 true training returns, or, marked *, of 50 evaluation games after training.
The interval is the 95 % bootstrap interval over seeds, SE the standard error of the mean.
*published*: what SLM Lab 5.3 publishes for the same agent, environment and budget (4 sessions,
moving average of training returns).

*at the bar*: the mean is at or above it, and the interval's lower end at most 10 % of (bar -
random) below it. *as published*: the mean is at most one standard error below what is published.

"""
COLUMNS = (
    "agent", "environment", "frames", "seeds", "mean", "SE", "95 % interval", "bar", "at the bar",
    "published", "as published", "frames/s", "commit",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table, and the trial that fills it."""

    agent: str
    env: str
    frames: int
    bar: float | None = None  # null: run to compare another row with
    published: float | None = None
    after: bool = False
    note: str = ""  # printed below the table: why it falls short, or what it is for

    @property
    def name(self) -> str:
        """What a row is picked by."""
        return f"{self.agent}/{self.env}"

    def command(self, folder: Path, seeds: int, seed: int) -> list[str]:
        """Return the command that trains it, or goes on where it was stopped."""
        overrides = [
            f"agent={self.agent}",
            f"env={self.env}",
            f"env.max_frame={self.frames}",
            f"meta.max_session={seeds}",
            f"seed={seed}",
            f"hydra.run.dir={folder}",
        ]
        if self.after:
            games = ["meta.rigorous_eval=10", "meta.eval_episodes=5", "meta.eval_sample=false"]
            overrides += [*games, f"meta.eval_frequency={self.frames}"]
        return [sys.executable, "-m", "rlhydra", *overrides]


def main() -> int:
    """Run the rows that the command line picks; return 1 where one of all rows does not pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pick", nargs="*", help="run only rows whose agent/environment contains it")
    parser.add_argument("--seed", type=int, default=0, help="base seed of every trial")
    parser.add_argument("--folder", type=Path, default=ROOT / "benchmark", help="of the trials")
    parser.add_argument("--table", type=Path, default=ROOT / "docs" / "benchmark.md")
    arguments = parser.parse_args()
    plan = yaml.safe_load((ROOT / "scripts" / "benchmark.yaml").read_text(encoding="utf-8"))
    rows = [Row(**{**row, "frames": int(row["frames"])}) for row in plan["rows"]]
    lines = _lines(arguments.table)
    failed = False
    for row in rows:
        folder = arguments.folder / f"{row.agent}_{row.env}_{row.frames}_seed{arguments.seed}"
        if not arguments.pick or any(pick in row.name for pick in arguments.pick):
            subprocess.run(row.command(folder, plan["seeds"], arguments.seed), check=False)
        if (folder / "trial.json").exists():
            lines[_key(row)], passes = _line(row, read_trial(folder))
            failed |= not passes
            page = _page(rows, lines, plan["about"])
            arguments.table.write_text(page, encoding="utf-8")
    return int(failed)


def _page(rows: list[Row], lines: dict[str, str], about: str) -> str:
    """Return the table in the rows' order, what is said of rows, and which ones are open."""
    table = [_cells(COLUMNS), _cells("---" for _ in COLUMNS)]
    table += [lines[_key(row)] for row in rows if _key(row) in lines]
    notes = [f"- {about}"]
    notes += [f"- `{row.agent}` on `{row.env}`: {row.note}" for row in rows if row.note]
    still = [f"`{row.agent}` on `{row.env}`" for row in rows if _key(row) not in lines]
    if still:
        notes.append(f"- Not run so far: {', '.join(still)}.")
    return HEADER + "\n".join([*table, "", *notes]).rstrip() + "\n"


def _lines(table: Path) -> dict[str, str]:
    """Return the lines of a table that is there: rows that were run elsewhere stay."""
    old = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    return {"|".join(line.split("|")[:4]) + "|": line for line in old if line.startswith("| ")}


def _key(row: Row) -> str:
    """Return how the row's line in the table begins."""
    return _cells([row.agent, row.env, count(row.frames) + ("*" if row.after else "")])


def _line(row: Row, trial: TrialRecord) -> tuple[str, bool]:
    """Return the row's line, and whether it reaches what it must."""
    final = trial.metrics["final_return"]
    scores = [score for score in final["sessions"] if score is not None]
    error = stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else None
    reached = row.bar is None or _reached(row.bar, trial)
    equal = row.published is None or _equal(row.published, final["mean"], error)
    rates = [s.frame / s.wall_time for s in trial.sessions if s.frame and s.wall_time]
    complete = trial.status == "completed"
    cells: list[Any] = [
        len(trial.sessions),
        number(final["mean"]),
        number(error),
        f"[{number(final['low'])}, {number(final['high'])}]",
        *_verdict(row.bar, reached, trial.status),
        *_verdict(row.published, equal, trial.status),
        count(sum(rates) / len(rates)) if rates else "",
        (trial.git_commit or "")[:9],
    ]
    return _key(row) + _cells(cells)[1:], complete and reached and equal


def _verdict(aim: float | None, reached: bool, status: str) -> tuple[str, str]:
    """Return what was aimed at and whether it was reached, blank where there was no aim."""
    if aim is None:
        return "", ""
    return f"{aim:g}", ("yes" if reached else "no") if status == "completed" else status


def _cells(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _reached(bar: float, trial: TrialRecord) -> bool:
    """Whether the mean reaches the bar, and the interval does not reach far below it."""
    final = trial.metrics["final_return"]
    mean, low = final["mean"], final["low"]
    if mean is None or low is None or trial.random_return is None:
        return False
    return mean >= bar and low >= bar - 0.1 * (bar - trial.random_return)


def _equal(published: float, mean: float | None, error: float | None) -> bool:
    return mean is not None and mean + (error or 0.0) >= published


if __name__ == "__main__":
    sys.exit(main())
