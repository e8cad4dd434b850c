"""A trial of a sweep, in whatever process the launcher runs it: judged, recorded, never raising."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlhydra.asha import Judge
from rlhydra.baseline import random_return
from rlhydra.composition import register
from rlhydra.config import Config
from rlhydra.experiment import JOURNAL, check
from rlhydra.files import write_atomically
from rlhydra.lock import sole_owner
from rlhydra.schema import ConfigError
from rlhydra.search import STATES, open_study, tell
from rlhydra.trial import Trial

log = logging.getLogger(__name__)

PATIENCE = (
    30.0  # seconds that a trial waits for its folder: a killed driver's trials end soon after
)


class TrialError(Exception):
    """A trial has no result; its trial.json says why."""


def run_in_sweep(
    composed: DictConfig, folder: Path, names: dict[str, str], number: int
) -> float | None:
    """Run trial `number`, record how it ended, and return its objective.

    Raises:
        TrialError: for the launcher, once everything is recorded.
        KeyboardInterrupt: with the exit code, where a signal ended the trial.
    """
    register()
    try:
        code, objective = _run(composed, folder, names, number)
    except Exception as error:
        log.exception("trial %s failed", number)
        text = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        record_failure(folder, text)
        code, objective = 1, None
    status = read_status(folder)
    if status == "interrupted":
        raise KeyboardInterrupt(code or 1)  # and with it the sweep
    if (folder.parent / JOURNAL).exists():
        tell(open_study(folder.parent), number, status, objective)
    if code:
        raise TrialError(f"trial {number} {status}: see {folder / 'trial.json'}")
    return objective


def _run(
    composed: DictConfig, folder: Path, names: dict[str, str], number: int
) -> tuple[int, float | None]:
    status = read_status(folder)
    if status in STATES:  # of a sweep that goes on
        return int(status not in ("completed", "pruned")), _objective(folder)
    silent = OmegaConf.merge(composed, {"meta": {"progress": False}})
    assert isinstance(silent, DictConfig)
    config = check(silent)
    with _patient_owner(folder):
        judge = _judge(folder, number, config) if (folder.parent / JOURNAL).exists() else None
        trial = Trial(silent, folder, names, judge)
        return trial.run(), trial.objective


@contextlib.contextmanager
def _patient_owner(folder: Path) -> Generator[None]:
    """Own the folder, once nobody else does."""
    end = time.monotonic() + PATIENCE
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(sole_owner(folder))
                break
            except ConfigError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
        yield


def _judge(folder: Path, number: int, config: Config) -> Judge:
    plain = config.meta.metric in ("final_return", "best_return")
    baseline = None if plain else random_return(config)
    return Judge(folder.parent, number, config, baseline)


def read_status(folder: Path) -> str:
    """Return the status of the trial in `folder`; queued where it was not begun."""
    path = folder / "trial.json"
    if not path.exists():
        return "queued"
    return str(json.loads(path.read_text(encoding="utf-8"))["status"])


def _objective(folder: Path) -> float | None:
    return json.loads((folder / "trial.json").read_text(encoding="utf-8"))["objective"]


def record_failure(folder: Path, error: str, status: str = "failed") -> None:
    """Write into trial.json that the trial ended without a result, and why."""
    path = folder / "trial.json"
    content: dict[str, Any] = {"metrics": {}, "sessions": [], "random_return": None}
    if path.exists():
        content = json.loads(path.read_text(encoding="utf-8"))
    content |= {"status": status, "objective": None, "error": error}
    for session in content["sessions"]:
        if session["status"] == "running":
            session["status"] = "interrupted"
    write_atomically(path, json.dumps(content, indent=2).encode())
