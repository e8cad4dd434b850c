"""`train` from Python: a trial composed and run as on the command line, its result as arrays."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from rlhydra.choices import check_choices
from rlhydra.composition import CONF, register
from rlhydra.experiment import check, check_folder, check_start, without_hydra
from rlhydra.lock import sole_owner
from rlhydra.metrics import FloatArray, Metric
from rlhydra.record import SessionRecord, TrialRecord, read_table, read_trial
from rlhydra.schema import ConfigError
from rlhydra.trial import Trial

if TYPE_CHECKING:
    from rlhydra.player import Player

Columns = dict[str, FloatArray]


@dataclass(frozen=True)
class SessionResult:
    """One session of a trial: the columns of its files by name, an empty cell as NaN."""

    record: SessionRecord

    @cached_property
    def episodes(self) -> Columns:
        """A row per finished game: `frame`, `wall_time`, `return`, `length`."""
        return self._columns("episodes")

    @cached_property
    def eval(self) -> Columns:
        """A row per eval checkpoint: `frame`, `return_mean`, …."""
        return self._columns("eval")

    @cached_property
    def train(self) -> Columns:
        """A row per log checkpoint: `frame`, `fps`, losses and schedules."""
        return self._columns("train")

    def _columns(self, name: str) -> Columns:
        return read_table(self.record.folder / f"{name}.csv").columns


@dataclass(frozen=True)
class Result:
    """What the trial in `folder` left there, each part read when it is asked for."""

    folder: Path

    @cached_property
    def record(self) -> TrialRecord:
        """Everything that the folder tells: configuration, versions, sessions."""
        return read_trial(Path(self.folder))

    @property
    def status(self) -> str:
        """completed, pruned, diverged, failed, interrupted or running."""
        return self.record.status

    @property
    def objective(self) -> float | None:
        """The mean of `meta.metric`; None where a session was lost."""
        return self.record.objective

    @property
    def metrics(self) -> dict[str, Metric]:
        """Each metric's mean over the sessions, its 95 % interval, and each session's value."""
        return self.record.metrics

    @cached_property
    def sessions(self) -> list[SessionResult]:
        """The sessions' data."""
        return [SessionResult(record) for record in self.record.sessions]

    @property
    def plots(self) -> list[Path]:
        """The pictures of the trial and its sessions."""
        return sorted((Path(self.folder) / "plots").glob("*.png"))

    @cached_property
    def agent(self) -> Player:
        """The best agent of the trial."""
        from rlhydra.player import load

        return load(self.folder)


def train(
    *overrides: str, folder: str | Path | None = None, config_dir: str | Path | None = None
) -> Result:
    """Run the trial that `python -m rlhydra *overrides` would run, and return its result.

    `folder` takes the place of outputs/<agent>_<env>/<date>_<time>; one that holds the same trial
    is gone on with. `config_dir` is a folder of your own choices, as `--config-dir` is.

    Raises:
        ConfigError: for a setting or choice that is wrong; nothing was written.
        KeyboardInterrupt: where Ctrl-C stopped it, after its checkpoint was written.
        SystemExit: where another signal did.
    """
    config = composed(overrides, folder, config_dir)
    own = without_hydra(config)
    check_start(check(own))
    place = Path(str(config.hydra.run.dir)).resolve()
    check_folder(place, own)
    place.mkdir(parents=True, exist_ok=True)
    choices = config.hydra.runtime.choices
    names = {group: str(choices[group]) for group in ("agent", "env")}
    with sole_owner(place), _log_file(place / f"{config.hydra.job.name}.log"):
        _write_hydra_files(place, config, own)
        code = Trial(own, place, names).run()
    if code > 128:
        raise KeyboardInterrupt if code == 130 else SystemExit(code)
    return Result(place)


def composed(
    overrides: Sequence[str],
    folder: str | Path | None = None,
    config_dir: str | Path | None = None,
) -> DictConfig:
    """Compose as the command line does, also from within another Hydra program.

    Raises:
        ConfigError: for a choice or setting that does not exist.
    """
    more = ["hydra.mode=RUN"]
    if folder is not None:
        more.append(f"hydra.run.dir={_quoted(str(folder))}")
    if config_dir is not None:
        more.append(f"hydra.searchpath=[{_quoted(f'file://{Path(config_dir).resolve()}')}]")
    option = [] if config_dir is None else [f"--config-dir={config_dir}"]
    register()
    check_choices([*option, *overrides], CONF)
    state = GlobalHydra.instance()
    outer, state.hydra = state.hydra, None
    try:
        with initialize_config_dir(str(CONF), version_base="1.3", job_name="rlhydra"):
            return compose("config", [*overrides, *more], return_hydra_config=True)
    except HydraException as error:
        raise ConfigError("", str(error).partition("\n")[0]) from error
    finally:
        state.hydra = outer


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _write_hydra_files(folder: Path, config: DictConfig, trial: DictConfig) -> None:
    """Write what Hydra's own run writes: the configuration, Hydra's, and the overrides."""
    own = folder / ".hydra"
    own.mkdir(exist_ok=True)
    with open_dict(config):
        config.hydra.runtime.output_dir = str(folder)
    OmegaConf.save(trial, own / "config.yaml")
    OmegaConf.save(OmegaConf.masked_copy(config, "hydra"), own / "hydra.yaml")
    OmegaConf.save(config.hydra.overrides.task, own / "overrides.yaml")


@contextlib.contextmanager
def _log_file(path: Path) -> Generator[None]:
    """Let our own logger write to `path`; whoever called us configures the others."""
    handler = logging.FileHandler(path, delay=True, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("rlhydra")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
