"""`python -m rlhydra.resume FOLDER`: go on with an interrupted trial, or with a sweep's trials."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from rlhydra.experiment import JOURNAL, check, quoted
from rlhydra.files import refuse_links
from rlhydra.lock import sole_owner
from rlhydra.processes import import_path
from rlhydra.record import read_trial
from rlhydra.schema import ConfigError
from rlhydra.targets import import_nothing_from
from rlhydra.trial import Trial

# What a sweep that goes on takes over of the settings that are Hydra's own; others could run code.
ADOPTED = (
    "hydra/launcher", "hydra/sweeper", "hydra.launcher.n_jobs", "hydra.launcher.ray.remote",
    "hydra.sweeper.sampler", "hydra.sweeper.sampler_kwargs", "hydra.sweeper.wave",
    "hydra.sweeper.params",
)  # fmt: skip


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
    parser.add_argument("--config-dir", metavar="DIR", help="your own choices that a sweep used")
    given = parser.parse_args(arguments)
    folder: Path = given.folder.resolve()
    import_nothing_from(folder)
    worst = 0
    try:
        trials = _trials(folder)
        if (folder / JOURNAL).exists() or not trials:
            resume_sweep(folder, given.settings, given.config_dir)
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


def resume_sweep(folder: Path, more: Sequence[str] = (), config_dir: str | None = None) -> NoReturn:
    """Go on with the sweep in `folder`, with `more` overrides, in place of this program.

    What could run code is not taken over from the folder, which may be a stranger's.

    Raises:
        ConfigError: where it holds no sweep, or one that needs such a setting.
    """
    path = folder / "multirun.yaml"
    if not path.is_file():
        raise ConfigError(str(folder), "expected the folder of a sweep, with a multirun.yaml")
    refuse_links(folder)
    hydra = cast("Any", OmegaConf.load(path)).hydra
    sources = [s.path for s in hydra.runtime.config_sources if s.provider == "command-line"]
    if sources and config_dir is None:
        problem = f"the sweep has choices of its own; if they are yours: --config-dir {sources[0]}"
        raise ConfigError(str(path), problem)
    given = {_key(text) for text in more}
    written = [text for text in hydra.overrides.hydra if _concerns_trials(text)]
    kept = [text for text in (*written, *hydra.overrides.task) if _key(text) not in given]
    for text in kept:
        _check_adopted(text, path)
    command = [sys.executable, "-P", "-m", "rlhydra", "--multirun", *kept, *more]
    command += [f"hydra.sweep.dir={quoted(str(folder.resolve()))}"]
    command += [] if config_dir is None else ["--config-dir", str(Path(config_dir).resolve())]
    if Path.cwd().is_relative_to(folder):
        os.chdir(folder.anchor)  # Ray's processes import from where they are started
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": import_path()})


def _concerns_trials(text: str) -> bool:
    return _key(text).startswith(
        ("hydra/launcher", "hydra/sweeper", "hydra.launcher.", "hydra.sweeper.")
    )


def _key(text: str) -> str:
    """Return what an override sets; its package, where it names one, behind an @."""
    try:
        return OverridesParser.create().parse_override(text).get_key_element().lstrip("+~")
    except HydraException as error:
        raise ConfigError(text, "no override that Hydra understands") from error


def _check_adopted(text: str, path: Path) -> None:
    """Raise ConfigError for an override by which a folder could have code run."""
    key = _key(text)
    own = "hydra" not in key.lower() or any(f"{key}.".startswith(f"{name}.") for name in ADOPTED)
    chosen = "." not in key  # of a group of choices: a file
    if not own or (chosen and ".." in text):
        problem = f"{text} is not taken over from a folder; if it is yours, give it again"
        raise ConfigError(str(path), problem)


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
