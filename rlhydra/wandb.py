"""`python -m rlhydra.wandb FOLDER`: mirror a trial's rows to Weights & Biases, a run a session."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlhydra.record import SessionRecord, TrialRecord, read_table, read_trial
from rlhydra.schema import ConfigError

PERIOD = 10.0  # seconds between two looks at a trial that runs

# Columns under the tags that TensorBoard has; those of the agent are their own.
TAGS = {
    "episodes": {"return": "game/return", "length": "game/length"},
    "train": {"fps": "time/fps", "opt_step": "time/opt_step"},
    "eval": {
        "return_mean": "eval/return",
        "return_std": "eval/return_std",
        "episodes": "eval/episodes",
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhydra.wandb",
        description="Send the rows of a trial to Weights & Biases, a run for each session. A trial "
        "that runs is followed to its end. WANDB_MODE=offline keeps everything here.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a trial")
    parser.add_argument("--project", default="rlhydra", help="of Weights & Biases (rlhydra)")
    options = parser.parse_args(arguments)
    try:
        mirror(options.folder, options.project)
    except ConfigError as error:
        print(f"rlhydra: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def mirror(folder: Path, project: str) -> None:
    """Send what is in `folder`, until its trial has ended.

    Raises:
        ConfigError: where `folder` is no trial's, or wandb is not installed.
    """
    trial = read_trial(folder)
    try:
        wandb: Any = importlib.import_module("wandb")
    except ImportError:
        raise ConfigError("wandb", "is not installed: pip install 'rlhydra[wandb]'") from None
    runs = [_start(wandb, trial, session, project) for session in trial.sessions]
    sent = [0] * len(runs)
    while True:
        trial = read_trial(folder)  # its status before its rows: none is missed
        for place, session in enumerate(trial.sessions):
            sent[place] = _send(session, runs[place], sent[place])
        if trial.status != "running":
            break
        time.sleep(PERIOD)
    for place, run in enumerate(runs):
        for name, metric in trial.metrics.items():
            run.summary[name] = dict(enumerate(metric["sessions"])).get(place)
        run.finish()


def _send(session: SessionRecord, run: Any, sent: int) -> int:
    """Log what came after frame `sent`; return the last frame."""
    for row in rows(session):
        frame = int(row.pop("frame"))
        if frame > sent:
            run.log(row, step=frame)
            sent = frame
    return sent


def _start(wandb: Any, trial: TrialRecord, session: SessionRecord, project: str) -> Any:
    place = f"{trial.folder.resolve()} {session.index}"
    return wandb.init(
        project=project,
        group=f"{trial.agent} on {trial.env}",
        name=f"{trial.folder.name}/session_{session.index}",
        id=hashlib.sha256(place.encode()).hexdigest()[:16],  # sent again, it is the same run
        resume="allow",
        config={**trial.config, "session": session.index},
        reinit="create_new",
    )


def rows(session: SessionRecord) -> Iterator[dict[str, float]]:
    """Yield what a session has written by frame: its tags and their values."""
    by_frame: dict[int, dict[str, float]] = {}
    for name, tags in TAGS.items():
        columns = read_table(session.folder / f"{name}.csv").columns
        for column, values in columns.items():
            if column in ("frame", "wall_time") or (name == "eval" and column not in tags):
                continue
            tag = tags.get(column, column)
            for frame, value in zip(columns["frame"].tolist(), values.tolist(), strict=True):
                if math.isfinite(value):
                    by_frame.setdefault(int(frame), {})[tag] = value
    for frame in sorted(by_frame):
        yield {"frame": frame, **by_frame[frame]}


if __name__ == "__main__":
    sys.exit(main())
