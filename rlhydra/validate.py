"""`python -m rlhydra.validate FOLDER`: run a sweep's best trials again, with seeds it has not had.

The best of many scores is partly luck; what the same settings reach with other seeds is not.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rlhydra.console import choose_mode, open_console
from rlhydra.experiment import check, check_folder
from rlhydra.files import refuse_links
from rlhydra.lock import sole_owner
from rlhydra.ranking import VALIDATE, Entry, closing, read_experiment, write_experiment
from rlhydra.schema import ConfigError
from rlhydra.targets import import_nothing_from
from rlhydra.trial import Trial

# What was the search's and is not the trial's.
DROPPED = ("seed=", "search=", "meta.max_trial=", "meta.max_session=", "meta.search_scheduler",
           "meta.search_resources", "meta.num_cpus=")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Validate the sweep that the command line names; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhydra.validate",
        description="Run a sweep's best trials again, with fresh seeds, into FOLDER/validate.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a sweep")
    parser.add_argument("--best", type=positive, default=3, help="how many trials (3)")
    parser.add_argument("--seeds", type=positive, default=4, help="sessions of each (4)")
    given = parser.parse_args(arguments)
    folder: Path = given.folder.resolve()
    import_nothing_from(folder)
    try:
        refuse_links(folder)
        if not (folder / "multirun.yaml").is_file():
            raise ConfigError(str(folder), "expected the folder of a sweep, with a multirun.yaml")
        code = validate(folder, given.best, given.seeds)
    except ConfigError as error:
        print(f"rlhydra: {error}", file=sys.stderr)
        return 1
    closing(folder, open_console(choose_mode(None)))
    return code


def validate(folder: Path, best: int, seeds: int) -> int:
    """Run the `best` trials of the sweep in `folder` again; return the worst exit code.

    Those that were validated before are not run again.

    Raises:
        ConfigError: where no trial is completed, or one was validated with other settings.
    """
    entries = read_experiment(folder)
    seed = 1 + max((int(entry.trial.config["seed"]) for entry in entries), default=0)
    chosen = [entry for entry in entries if entry.trial.status == "completed"][:best]
    if not chosen:
        raise ConfigError(str(folder), "holds no completed trial to validate")
    code = 0
    for entry in chosen:
        code = max(code, _run(entry, folder / VALIDATE / str(entry.number), seed, seeds))
        if code > 128:  # stopped by a signal
            break
    write_experiment(folder)
    return code


def _run(entry: Entry, folder: Path, seed: int, seeds: int) -> int:
    """Run a trial's settings, as they were composed then, with other seeds and nothing to stop it.

    All of its sessions are of one seed, as in a trial by itself, and run at once where they can.
    """
    trial = entry.trial
    composed = OmegaConf.load(trial.folder / ".hydra" / "config.yaml")
    assert isinstance(composed, DictConfig)
    composed.seed = seed
    composed.meta.max_session = seeds
    for name in ("search_scheduler", "search_resources", "num_cpus"):
        composed.meta[name] = None
    check(composed)
    check_folder(folder, composed)
    given = [text for text in trial.overrides if not text.startswith(DROPPED)]
    records = folder / ".hydra"
    records.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(composed, records / "config.yaml")
    OmegaConf.save(
        [*given, f"seed={seed}", f"meta.max_session={seeds}"], records / "overrides.yaml"
    )
    shutil.copy(trial.folder / ".hydra" / "hydra.yaml", records)
    names = {"agent": trial.agent, "env": trial.choices.get("env", trial.env)}
    with sole_owner(folder):
        return Trial(composed, folder, names).run()


def positive(text: str) -> int:
    """Read a whole number > 0 of the command line."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
