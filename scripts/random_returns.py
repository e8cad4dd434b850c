"""Measure the true returns of a uniformly random policy, the zero of strength and efficiency.

    python scripts/random_returns.py                 # shipped environments that are missing
    python scripts/random_returns.py pong hopper     # these anew

Each environment plays 100 whole games, or fewer where time is up: `games` tells. The file is
written after each environment, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir

sys.path.insert(0, str(Path(__file__).parents[1]))

from rlhydra.baseline import GAMES, MEASURED, defining, measure
from rlhydra.composition import CONF, register
from rlhydra.config import Config, parse
from rlhydra.env.shipped import games
from rlhydra.files import write_atomically

NO_ENVIRONMENT = "gym"  # a choice that wants an id


def main() -> None:
    """Measure what the command line names, or what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15.0, help="at most, for an environment")
    parser.add_argument("names", nargs="*", help="such as pong; default: what is missing")
    given = parser.parse_args()
    known: dict[str, Any] = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    for name in given.names or shipped():
        config = composed(name)
        settings = defining(config)
        if not given.names and known.get(config.env.id, {}).get("env") == settings:
            continue
        started = time.monotonic()
        returns = measure(config, seconds=60 * given.minutes)
        seconds = time.monotonic() - started
        print(f"{name}: {len(returns)} games of {GAMES} in {seconds:.0f} s", flush=True)
        if returns:
            known[config.env.id] = entry(returns, settings)
            write(known)


def shipped() -> list[str]:
    """Return the choices of the group `env`: quick ones first."""
    files = {path.stem for path in (CONF / "env").glob("*.yaml")}
    return [*sorted(files - {NO_ENVIRONMENT}), *games()]


def composed(name: str) -> Config:
    """Return the configuration of `env=name`."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse(compose("config", [f"env={name}"]))


def entry(returns: list[float], settings: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of an environment."""
    package = "ale-py" if settings["id"].startswith("ALE/") else "gymnasium"
    return {
        "mean": round(float(np.mean(returns)), 4),
        "std": round(float(np.std(returns)), 4),
        "games": len(returns),
        "version": f"{package} {version(package)}",
        "env": settings,
    }


def write(known: dict[str, Any]) -> None:
    """Write one line an environment."""
    lines = [f"{json.dumps(key)}: {json.dumps(known[key])}" for key in sorted(known)]
    write_atomically(MEASURED, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


if __name__ == "__main__":
    main()
