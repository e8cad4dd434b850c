"""The process of a session: does what its trial orders, and tells it how that ended."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from pathlib import Path

import torch

from rlhydra.agent.agent import Diverged
from rlhydra.build import load_config
from rlhydra.channel import Channel, Stopped
from rlhydra.lock import sole_writer
from rlhydra.schema import ConfigError
from rlhydra.session import Session


def main() -> None:
    """Run session INDEX of the trial in FOLDER; messages go to the file descriptor MESSAGES."""
    folder, index, messages = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    channel = Channel(messages)
    try:
        train(folder, index, channel)
    except Stopped:
        channel.send(state="interrupted")
    except Exception as error:
        traceback.print_exc()
        text = str(error) if isinstance(error, (ConfigError, Diverged)) else _described(error)
        state = "diverged" if isinstance(error, Diverged) else "failed"
        channel.send(state=state, error=text, final=isinstance(error, ConfigError))
        sys.exit(1)


def train(folder: Path, index: int, channel: Channel) -> None:
    """Run a session as `channel` orders."""
    orders = channel.orders()
    config = load_config(orders["config"])
    own = folder / f"session_{index}"
    with sole_writer(own, lambda: channel.stopped):
        device = "cuda" if orders["gpu"] and torch.cuda.is_available() else "cpu"
        threads, rows = orders["threads"], orders["rows"]
        session = Session(config, index, own, channel, threads, device, rows=rows)
        with contextlib.closing(session):
            session.report("running", arithmetic=session.arithmetic)
            ending = session.run()
        session.report(ending)


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
