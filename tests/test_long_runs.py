"""What a run takes of the machine after hundreds of checkpoints: no more than after the first."""

import contextlib
import signal
from pathlib import Path

import pytest

from tests.test_signals import processes
from tests.trials import start, wait_for

MEMORY = ("agent=ddqn_per", "agent.buffer_size=2000", "agent.learning_starts=200")
RUNS = {
    "ppo": ("meta.max_session=1",),
    "ddqn_per": (*MEMORY, "meta.max_session=1"),
    "hogwild": ("agent=a2c", "meta.distributed=shared", "meta.max_session=2"),
}


def taken(folder):
    """Return the memory (kB), open files and threads of each process of the trial, oldest first."""
    found = []
    for number in sorted(processes(folder)):
        place = Path(f"/proc/{number}")
        status = dict(line.split(":\t", 1) for line in (place / "status").read_text().splitlines())
        memory = int(status["VmRSS"].split()[0])
        found.append((memory, len(list((place / "fd").iterdir())), int(status["Threads"])))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_memory_open_files_and_processes_stay_flat(tmp_path, name):
    """An hour has 120 checkpoints at the default interval; here they are 3 times as many."""
    folder = tmp_path / "trial"
    rows = folder / "session_0" / "eval.csv"
    every = ("meta.checkpoint_interval=0", "meta.eval_frequency=160", "meta.log_frequency=160")
    with start(folder, *RUNS[name], *every, "env.max_frame=1e8", "meta.progress=false") as trial:
        try:
            seen = []
            for checkpoints in (120, 240, 360):
                wait_for(lambda n=checkpoints: rows.exists() and lines(rows) > n, timeout=300)
                seen.append((taken(folder), files(folder)))
            trial.send_signal(signal.SIGTERM)
            assert trial.wait(10) == 143
        finally:
            trial.kill()
    (first, first_files), (_, _), (last, last_files) = seen
    assert len(last) == len(first)
    for before, now in zip(first, last, strict=True):
        assert now[0] - before[0] < 5000, "memory grew"
        assert abs(now[1] - before[1]) <= 3  # a file may be just being written
        assert now[2] == before[2]
    assert last_files <= first_files + 3


def lines(path):
    return path.read_bytes().count(b"\n")


def files(folder):
    with contextlib.suppress(FileNotFoundError):  # one that goes while they are listed
        return sum(1 for path in folder.rglob("*") if path.is_file())
    return files(folder)
