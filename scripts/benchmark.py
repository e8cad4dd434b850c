"""Runs the rows of benchmark.yaml as trials and writes the table of what they reached."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlhydra.record import TrialRecord, read_trial
from rlhydra.wording import count, number

ROOT = Path(__file__).resolve().parent.parent
HEADER = """# What the agents reach

Written by `scripts/benchmark`; each row is one trial, by its own command. Score: `final_return`,
the mean of the last 100 true training returns, or, marked *, of 50 evaluation games after training.
The interval is the 95 % bootstrap interval over seeds. *published*: what SLM Lab 5.3 publishes for
the same agent, environment and budget (4 sessions, moving average of training returns).

A row passes when its mean is at or above the bar and the interval's lower end at most 10 % of
(bar - random) below it.

"""
COLUMNS = (
    "agent", "environment", "frames", "seeds", "mean", "95 % interval", "bar", "published",
    "passes", "frames/s", "commit",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table, and the trial that fills it."""

    agent: str
    env: str
    frames: int
    bar: float
    published: float | None = None
    after: bool = False

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
    lines = [_cells(COLUMNS), _cells("---" for _ in COLUMNS)]
    failed = False
    for row in rows:
        folder = arguments.folder / f"{row.agent}_{row.env}_{row.frames}_seed{arguments.seed}"
        if not arguments.pick or any(pick in row.name for pick in arguments.pick):
            subprocess.run(row.command(folder, plan["seeds"], arguments.seed), check=False)
        if (folder / "trial.json").exists():
            line, passes = _line(row, read_trial(folder))
            lines.append(line)
            failed |= not passes
            arguments.table.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    return int(failed)


def _line(row: Row, trial: TrialRecord) -> tuple[str, bool]:
    final = trial.metrics["final_return"]
    mean, low, high = final["mean"], final["low"], final["high"]
    passes = trial.status == "completed" and _passes(row, trial)
    rates = [s.frame / s.wall_time for s in trial.sessions if s.frame and s.wall_time]
    cells: list[Any] = [
        row.agent,
        trial.env,
        count(row.frames) + ("*" if row.after else ""),
        len(trial.sessions),
        number(mean),
        f"[{number(low)}, {number(high)}]",
        f"{row.bar:g}",
        "" if row.published is None else f"{row.published:g}",
        "yes" if passes else "no" if trial.status == "completed" else trial.status,
        count(sum(rates) / len(rates)) if rates else "",
        (trial.git_commit or "")[:9],
    ]
    return _cells(cells), passes


def _cells(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _passes(row: Row, trial: TrialRecord) -> bool:
    """Whether the mean reaches the bar, and the interval does not reach far below it."""
    final = trial.metrics["final_return"]
    mean, low = final["mean"], final["low"]
    if mean is None or low is None or trial.random_return is None:
        return False
    return mean >= row.bar and low >= row.bar - 0.1 * (row.bar - trial.random_return)


if __name__ == "__main__":
    sys.exit(main())
