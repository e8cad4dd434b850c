"""Compares searches with and without early stopping: frames used, and what their best trials reach.

16 PPO trials on CartPole, sampled from search=ppo with three seeds, once all to their end and once
with ASHA; the same seeds draw the same trials. Frames are counted from the trials' files; the best
trial of each search is run again with fresh seeds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from rlhydra.ranking import Entry, read_experiment, score

ROOT = Path(__file__).resolve().parent.parent
FRAMES = 60_000
SETTINGS = (
    "env=cartpole", "search=ppo", "meta.max_trial=16", "meta.max_session=1", "meta.progress=false",
    f"env.max_frame={FRAMES}", "meta.log_frequency=1000", "meta.eval_frequency=1000",
)  # fmt: skip
STOPPING = f"meta.search_scheduler={{grace_period: {FRAMES // 15}, reduction_factor: 3}}"
SEARCHES = {"full": (), "asha": (STOPPING,)}


def main() -> int:
    """Run what is missing and print the table; return 1 where ASHA falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="of the search")
    parser.add_argument("--again", type=int, default=4, help="fresh seeds of the best trials")
    parser.add_argument("--folder", type=Path, default=ROOT / "benchmark" / "asha")
    given = parser.parse_args()
    print("| seed | search | frames | of the full | best trial | its score | with fresh seeds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    shares: list[float] = []
    reached: dict[str, list[float]] = {name: [] for name in SEARCHES}
    for seed in range(given.seeds):
        used: dict[str, int] = {}
        for name, more in SEARCHES.items():
            best, used[name] = _search(given.folder / f"{name}_{seed}", seed, more, given.again)
            share = used[name] / used["full"]
            assert best.again is not None
            again = score(best.again)
            assert again is not None
            reached[name].append(again)
            cells = f"{seed} | {name} | {used[name]:,} | {share:.0%} | {best.number}"
            print(f"| {cells} | {best.score:.1f} | {again:.1f} |", flush=True)
        shares.append(used["asha"] / used["full"])
    full, stopped = (float(np.mean(scores)) for scores in reached.values())
    print(
        f"\nMeans: ASHA used {np.mean(shares):.1%} of the frames; its best trials reach "
        f"{stopped:.1f}, those of the full searches {full:.1f} ({stopped / full - 1:+.1%})."
    )
    return int(np.mean(shares) > 0.5 or stopped < 0.95 * full)


def _search(folder: Path, seed: int, more: tuple[str, ...], again: int) -> tuple[Entry, int]:
    """Run a search, or what is left of it, and its best trial again; return that and the frames."""
    place = (f"hydra.sweep.dir={folder}", f"seed={seed}")
    _run("rlhydra", "--multirun", *SETTINGS, *more, *place)
    _run("rlhydra.validate", str(folder), "--best=1", f"--seeds={again}")
    entries = read_experiment(folder)
    # The evaluation rows are counted, not what trial.json says.
    curves = [session.eval["frame"] for entry in entries for session in entry.trial.sessions]
    return entries[0], sum(int(frames[-1]) for frames in curves if len(frames))


def _run(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
