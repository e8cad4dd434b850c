"""Runs trials as users do, by the command line, and sessions within the test's own process."""

import contextlib
import csv
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from rlhydra.build import load_config
from rlhydra.channel import Channel
from rlhydra.checkpoint import Checkpoints
from rlhydra.memory.ring import Rows
from rlhydra.session import Session
from tests.conftest import composed

ROOT = Path(__file__).parents[1]
SMALL = (
    "meta.log_frequency=400",
    "meta.eval_frequency=300",
    "meta.progress=false",
    "env.max_frame=3000",
)
TIMES = ("wall_time", "fps")


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(folder, *overrides, module="rlhydra", **kwargs):
    """Start a trial in `folder`; the caller ends it."""
    command = [sys.executable, "-m", module]
    arguments = [str(folder)] if module == "rlhydra.resume" else [f"hydra.run.dir={folder}"]
    return subprocess.Popen(
        [*command, *arguments, *overrides],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **{"cwd": folder.parent, **kwargs},
    )


def run(folder, *overrides, timeout=120, **kwargs):
    """Run a trial in `folder`; return its exit code and what it printed."""
    with start(folder, *overrides, **kwargs) as process:
        try:
            text, _ = process.communicate(timeout=timeout)
        finally:
            process.kill()
    return process.returncode, text


def wait_for(condition, timeout=60.0):
    """Wait until `condition` is true, and return its value."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return value


def settings(*overrides):
    """Compose a configuration as the command line does; plain data."""
    return OmegaConf.to_container(composed(*SMALL, *overrides), resolve=True)


class Line(Channel):
    """A channel to nobody; tells the session to stop after so many steps."""

    def __init__(self, steps=None):
        super().__init__(os.open(os.devnull, os.O_WRONLY))
        self.steps = steps
        self.told = []

    @property
    def stopped(self):
        if self.steps is not None:
            self.steps -= 1
        return self.steps is not None and self.steps < 0

    @stopped.setter
    def stopped(self, value):
        pass

    def send(self, **message):
        self.told.append(message)


def train(folder, plain, *, index=0, steps=None, channel=None):
    """Train a session within this process; return how it ended."""
    folder.mkdir(parents=True, exist_ok=True)
    session = Session(load_config(plain), index, folder, channel or Line(steps))
    with contextlib.closing(session):
        return session.run()


def table(path):
    """Return the rows of a CSV file as dictionaries of texts."""
    return list(csv.DictReader(io.StringIO(path.read_text())))


def frames(path):
    return [int(row["frame"]) for row in table(path)]


def timeless(folder):
    """Return what two runs of the same session have in common: rows but for times, tensors."""
    rows = {
        name: [{k: v for k, v in row.items() if k not in TIMES} for row in table(folder / name)]
        for name in ("episodes.csv", "train.csv", "eval.csv")
    }
    state = Checkpoints.read(folder / "checkpoints" / "latest.json")
    tensors = {name: tensor.tolist() for name, tensor in _tensors(state["agent"])}
    return rows, tensors


def _tensors(tree, name=""):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _tensors(value, f"{name}/{key}")
    elif isinstance(tree, Rows):
        yield from _tensors(
            tree.read(tree.start, tree.stop) if tree.stop > tree.start else {}, name
        )
    elif hasattr(tree, "tolist"):
        yield name, np.asarray(tree)
