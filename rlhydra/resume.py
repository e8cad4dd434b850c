"""`python -m rlhydra.resume FOLDER`: go on with an interrupted trial, or with a sweep's trials."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rlhydra.experiment import JOURNAL, check, import_nothing_from, resume_sweep
from rlhydra.files import refuse_links
from rlhydra.lock import sole_owner
from rlhydra.record import read_trial
from rlhydra.schema import ConfigError
from rlhydra.trial import Trial


def main(arguments: Sequence[str] | None = None) -> int:
    """Resume what the command line names; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhydra.resume",
        description="Go on exactly where a trial stopped; of a finished one print the result.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a trial or a sweep")
    parser.add_argument(
        "settings", nargs="*", metavar="SETTING=VALUE", help="of a sweep, such as meta.max_trial=32"
    )
    given = parser.parse_args(arguments)
    folder: Path = given.folder.resolve()
    import_nothing_from(folder)
    worst = 0
    try:
        trials = _trials(folder)
        if (folder / JOURNAL).exists() or not trials:
            resume_sweep(folder, given.settings)
        for trial in trials:
            worst = max(worst, resume(trial))
            if worst > 128:  # stopped by a signal
                break
    except ConfigError as error:
        print(f"rlhydra: {error}", file=sys.stderr)
        return 1
    return worst


def resume(folder: Path) -> int:
    """Go on with the trial in `folder`; return its exit code.

    Raises:
        ConfigError: where it holds no trial, or one that cannot be gone on with.
    """
    refuse_links(folder)
    composed = _composed(folder)
    check(composed)
    record = read_trial(folder) if (folder / "trial.json").exists() else None
    names = {} if record is None else {"agent": record.agent, "env": record.choices.get("env", "")}
    with sole_owner(folder):
        return Trial(composed, folder, {"agent": "agent", "env": "env", **names}).run()


def _composed(folder: Path) -> DictConfig:
    path = folder / ".hydra" / "config.yaml"
    if not path.is_file():
        problem = "expected the folder of a trial or a sweep; there is no .hydra/config.yaml here"
        raise ConfigError(str(folder), problem)
    composed = OmegaConf.load(path)
    assert isinstance(composed, DictConfig)
    return composed


def _trials(folder: Path) -> list[Path]:
    """Return the folders of the trials that were begun: `folder`, or those of the sweep in it."""
    if (folder / ".hydra").is_dir() or not (folder / "multirun.yaml").is_file():
        return [folder]
    return sorted(
        (path for path in folder.iterdir() if (path / ".hydra").is_dir()),
        key=lambda path: (len(path.name), path.name),
    )


if __name__ == "__main__":
    sys.exit(main())
