"""Kill short runs at random moments, damage their files, go on, and count what was lost.

    python scripts/benchmark_kills.py --kills 200 --damages 50

Each session is a fork of this process, which has imported everything: it starts at once, and so
most kills meet it at work, many of them while it writes (a checkpoint at each evaluation). It goes
on in the same folder until it is done; then its rows and parameters are compared with those of a
run that was left alone. Then a file of an interrupted run is cut off or a bit of it flipped, at
random: the run has to end with that same result, or to be refused with an error that says why.
TMPDIR=/dev/shm spares the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).parents[1]))

from rlhydra.build import load_config
from rlhydra.channel import Channel
from rlhydra.checkpoint import GENERATIONS, Checkpoints
from rlhydra.composition import CONF, register
from rlhydra.files import WRITING
from rlhydra.memory.ring import Rows
from rlhydra.schema import ConfigError
from rlhydra.session import Session

SMALL = [
    "meta.log_frequency=200",
    "meta.eval_frequency=100",
    "meta.checkpoint_interval=0",
    "env.max_frame=2000",
]
TIMES = ("wall_time", "fps")
REFUSED = 3  # exit code of a session that ended with a clear error


def main() -> int:
    """Run the benchmark; return 1 where anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--damages", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=1.5, help="seconds of work until a kill")
    parser.add_argument("overrides", nargs="*", help="such as agent=dqn env=acrobot")
    given = parser.parse_args()
    plain = compose(given.overrides)
    generator = random.Random(given.seed)
    faults: list[str] = []
    kills = runs = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if wait(session(root / "whole", plain)) != 0:
            return 1
        reference = outcome(root / "whole")
        while kills < given.kills:
            folder = root / "killed"
            moments = [generator.uniform(0, given.longest) for _ in range(given.kills - kills)]
            done, killed = kill_until_done(folder, plain, moments, faults)
            kills, runs = kills + killed, runs + 1
            if not done:
                faults.append("a session failed: see above")
            elif outcome(folder) != reference:
                faults.append("a run that was killed differs from the one left alone")
            shutil.rmtree(folder)
        print(f"{kills} kills in {runs} runs", flush=True)
        endings = damage_and_go_on(root, plain, reference, given.damages, generator, faults)
    print(", ".join(f"{count} damages {ending}" for ending, count in endings.items()))
    print(f"{len(faults)} faults")
    for fault in sorted(set(faults)):
        print(f"  {faults.count(fault)} x {fault}")
    return int(bool(faults))


def compose(overrides: list[str]) -> dict[str, Any]:
    """Return the configuration, as plain data."""
    from hydra import compose, initialize_config_dir

    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", [*SMALL, *overrides])
    return OmegaConf.to_container(composed, resolve=True)  # type: ignore[return-value]


def kill_until_done(
    folder: Path, plain: dict[str, Any], moments: list[float], faults: list[str]
) -> tuple[bool, int]:
    """Run a session to its end through kills at `moments`; return if it did, and how many."""
    for kills, moment in enumerate(moments):
        child = session(folder, plain)
        wait_for_work(child, moment)
        os.kill(child, signal.SIGKILL)
        code = wait(child)
        if code != -signal.SIGKILL:
            return code == 0, kills
        faults += torn(folder)
    return wait(session(folder, plain)) == 0, len(moments)


def damage_and_go_on(
    root: Path,
    plain: dict[str, Any],
    reference: tuple[Any, ...],
    damages: int,
    generator: random.Random,
    faults: list[str],
) -> dict[str, int]:
    """Damage a file of an interrupted run and go on, so many times; count how that ended."""
    endings = {"changed nothing in the end": 0, "were refused": 0}
    steps = plain["env"]["max_frame"] // plain["env"]["num_envs"]
    wait(session(root / "interrupted", plain, steps * 2 // 3))
    for _ in range(damages):
        folder = root / "damaged"
        shutil.copytree(root / "interrupted", folder)
        kept = ("checkpoints/*.json", "checkpoints/*.safetensors", "*.csv")
        files = sorted(path for pattern in kept for path in folder.glob(pattern))
        done = damage(generator.choice(files), generator)
        code = wait(session(folder, plain))
        if code == REFUSED:
            endings["were refused"] += 1
        elif code == 0 and outcome(folder) == reference:
            endings["changed nothing in the end"] += 1
        else:
            faults.append(f"{done}: exit code {code}, and not the result of the run left alone")
        shutil.rmtree(folder)
    return endings


def damage(path: Path, generator: random.Random) -> str:
    """Cut off or flip something at random; return what was done."""
    data = bytearray(path.read_bytes())
    place = generator.randrange(len(data))
    if generator.random() < 0.5:
        path.write_bytes(data[:place])
        return f"{path.name} cut off at {place}"
    data[place] ^= 1 << generator.randrange(8)
    path.write_bytes(data)
    return f"a bit of {path.name} flipped at {place}"


def wait_for_work(child: int, seconds: float) -> None:
    """Wait until a child has worked so long, however busy the machine is, and a moment more."""
    ticks = seconds * os.sysconf("SC_CLK_TCK")
    while True:
        state, *numbers = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        if state == "Z" or int(numbers[10]) + int(numbers[11]) >= ticks:
            break
        time.sleep(0.005)
    time.sleep(seconds % 0.02)  # also while it waits for the disk


class Steps(Channel):
    """Stops the session after so many steps."""

    def __init__(self, steps: int | None) -> None:
        super().__init__(os.open(os.devnull, os.O_WRONLY))
        self.left = steps

    @property
    def stopped(self) -> bool:
        """Count a step, and tell whether it was the last."""
        if self.left is not None:
            self.left -= 1
        return self.left == 0

    @stopped.setter
    def stopped(self, _: bool) -> None: ...


def session(folder: Path, plain: dict[str, Any], steps: int | None = None) -> int:
    """Fork a process that trains; return its number. It ends with REFUSED on a clear error."""
    child = os.fork()
    if child:
        return child
    code = 1
    with contextlib.suppress(Exception):
        folder.mkdir(parents=True, exist_ok=True)
        channel = Steps(steps)
        try:
            trained = Session(load_config(plain), 0, folder, channel)
            with contextlib.closing(trained):
                code = int(trained.run() != "completed")
        except ConfigError as error:
            code = REFUSED
            print(error, file=sys.stderr)
    os._exit(code)


def wait(child: int) -> int:
    """Return the exit code of a child, or the number of the signal that ended it, negated."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def torn(folder: Path) -> list[str]:
    """Return what is wrong with the files as a kill left them."""
    faults = [
        f"{path.name} ends within a row"
        for path in folder.glob("*.csv")
        if path.stat().st_size and not path.read_bytes().endswith(b"\n")
    ]
    checkpoints = folder / "checkpoints"
    for path in [
        *(checkpoints / f"{name}.json" for name in GENERATIONS),
        checkpoints / "best.json",
    ]:
        if path.exists():
            try:
                Checkpoints.read(path)
            except ConfigError as error:
                faults.append(f"{path.name}: {error}")
    return faults


def outcome(folder: Path) -> tuple[Any, ...]:
    """Return what must not depend on kills: rows but for times, the agent's tensors, the files."""
    rows = []
    for path in sorted(folder.glob("*.csv")):
        header, *lines = (line.split(",") for line in path.read_text().splitlines())
        kept = [place for place, name in enumerate(header) if name not in TIMES]
        rows.append([[line[place] for place in kept] for line in (header, *lines)])
    agent = Checkpoints.read(folder / "checkpoints" / "latest.json")["agent"]
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    named = "".join(path.read_text() for path in (folder / "checkpoints").glob("*.json"))
    leftovers = [
        name
        for name in names
        if name.endswith(WRITING) or (name.endswith(".safetensors") and name not in named)
    ]
    return rows, json.dumps(agent, default=plain_values), leftovers


def plain_values(value: Any) -> Any:
    """Return an array, or all rows of a growing one, as lists."""
    if isinstance(value, Rows):
        arrays = value.read(value.start, value.stop)
        return {name: array.tolist() for name, array in arrays.items()}
    return value.tolist()


if __name__ == "__main__":
    sys.exit(main())
