"""An experiment: checks its trials, hands them to the launcher, records them, ranks them."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.study import Study
from optuna.trial import TrialState

from rlhydra.config import INCIDENTAL, MetaConfig
from rlhydra.console import choose_mode, open_console
from rlhydra.experiment import check, check_start, fail, quoted, without_hydra
from rlhydra.files import write_atomically
from rlhydra.lock import sole_owner
from rlhydra.pruners import make_pruner
from rlhydra.ranking import closing, prune_checkpoints, write_experiment
from rlhydra.record import read_trial
from rlhydra.schema import ConfigError, FitError, read
from rlhydra.search import STATES, Sampling, open_study, tell
from rlhydra.space import Space, check_names, read_space
from rlhydra.sweep_trial import read_status, record_failure
from rlhydra.watch import watch

# A sweep goes on with other values of these.
FREE = tuple(f"meta.{name}" for name in INCIDENTAL)


class Sweep:
    """All trials of one `--multirun`, in one folder."""

    def __init__(self, config: DictConfig, loader: Any, launcher: Any) -> None:
        """Take what Hydra composed without the sweep, and the launcher to run trials with."""
        self._config = config
        self._loader = loader
        self._launcher = launcher
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._returns: list[Any] = []
        self._code = 128 + signal.SIGINT  # to end with when interrupted

    def run(
        self,
        arguments: Sequence[str],
        params: Mapping[str, Any],
        sampler: str,
        kwargs: Mapping[str, Any],
        wave: int | None,
    ) -> list[Any]:
        """Run the trials that are not finished; return what the launcher returned for them.

        Ends the process with exit code 1 where a trial has no result, or nothing can be run.
        """
        try:
            meta = OmegaConf.to_container(self._config.meta, resolve=True)
            self._meta = read(MetaConfig, meta, "meta")
            space = read_space(params, arguments, self._loader)
            seed, limit = int(self._config.seed), self._meta.max_trial
            sampling = Sampling(space, sampler, kwargs, seed, limit)
            self._check(space)
            folder = Path(str(self._config.hydra.sweep.dir)).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            with sole_owner(folder):
                return self._run(folder, space, sampling, wave)
        except ConfigError as error:
            fail(error)
        except KeyboardInterrupt as error:
            sys.exit(error.args[0] if error.args else self._code)

    def _run(self, folder: Path, space: Space, sampling: Sampling, wave: int | None) -> list[Any]:
        self._check_folder(folder)
        written = folder / "multirun.yaml"
        text = OmegaConf.to_yaml(self._config).encode()
        if not written.exists():  # from here on the sweep can be gone on with
            write_atomically(written, text)
        study = open_study(folder)
        sampling.check(study)
        write_atomically(written, text)
        self._settle(folder, study)
        mode = choose_mode(self._meta.progress)
        console = open_console(mode)
        with self._signals():
            try:
                with watch(folder, sampling.count, mode, console):
                    self._launch_all(folder, space, sampling, study, wave)
            finally:
                over = sys.exc_info()[0] is None
                self._settle(folder, study, over=over)
                write_experiment(folder, drawn=over)  # what is interrupted is to end soon
                if self._meta.keep_trials is not None:
                    prune_checkpoints(folder, self._meta.keep_trials)
                closing(folder, console)
        ends = {read_status(folder / str(number)) for number in range(sampling.count)}
        if ends - {"completed", "pruned"}:
            sys.exit(1)
        return self._returns

    def _launch_all(
        self, folder: Path, space: Space, sampling: Sampling, study: Study, wave: int | None
    ) -> None:
        """Launch all trials at once, or in waves where the sampler learns from finished ones."""
        if sampling.up_front:
            self._launch(folder, space, sampling.draw(study, sampling.count), study)
            return
        wave = wave or self._slots()
        drawn = len(study.get_trials(deepcopy=False))
        if drawn:
            self._launch(folder, space, sampling.draw(study, drawn), study)
        while drawn < sampling.count:
            drawn = min(drawn + wave, sampling.count)
            self._launch(folder, space, sampling.draw(study, drawn), study)

    def _launch(
        self, folder: Path, space: Space, points: Sequence[Mapping[str, Any]], study: Study
    ) -> None:
        """Run those of the first trials that have not ended; the numbers between return at once."""
        states = [trial.state for trial in study.get_trials(deepcopy=False)]
        unfinished = [i for i in range(len(points)) if states[i] is TrialState.RUNNING]
        if not unfinished:
            return
        first = unfinished[0]
        place = f"hydra.sweep.dir={quoted(str(folder))}"
        jobs = [[*space.overrides(point), place] for point in points[first:]]
        returns = self._launcher.launch(jobs, initial_job_idx=first)
        for number, returned in enumerate(returns, first):
            path = folder / str(number)
            if read_status(path) not in STATES:  # its process was killed, or never began
                path.mkdir(exist_ok=True)
                problem = getattr(returned, "_return_value", None)
                record_failure(path, f"its process ended: {_first_line(problem)}")
        self._settle(folder, study)
        self._returns += returns

    def _settle(self, folder: Path, study: Study, *, over: bool = True) -> None:
        """Let the study know what the trials' folders say; if not `over`, mark those that ran."""
        for trial in study.get_trials(deepcopy=False):
            path = folder / str(trial.number)
            status = read_status(path)
            if status in STATES and not trial.state.is_finished():
                tell(study, trial.number, status, read_trial(path).objective)
            elif status == "running" and not over:
                record_failure(path, "the sweep was interrupted", "interrupted")

    @contextlib.contextmanager
    def _signals(self) -> Generator[None]:
        """End on SIGTERM as on Ctrl-C: with what was done written down."""

        def stop(number: int, _: FrameType | None) -> NoReturn:
            self._code = 128 + number
            raise KeyboardInterrupt

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _slots(self) -> int:
        return int(self._launcher.slots()) if hasattr(self._launcher, "slots") else 1

    def _check_folder(self, folder: Path) -> None:
        """Raise ConfigError where `folder` holds another sweep."""
        path = folder / "multirun.yaml"
        if not path.exists():
            return
        saved = OmegaConf.load(path)
        assert isinstance(saved, DictConfig)
        before, now = _settings(saved), _settings(self._config)
        differ = [key for key in before | now if before.get(key) != now.get(key)]
        leaves = [key for key in differ if not isinstance((before | now)[key], dict)]
        other = [key for key in leaves if not key.startswith(FREE)]
        if other:
            problem = f"holds a sweep with another {', '.join(other)}; choose another folder"
            raise ConfigError(str(folder), problem)

    def _check(self, space: Space) -> None:
        """Raise ConfigError for a value that is wrong by itself, or where no trial could run.

        Of a sampled space the ends are tried. A combination that does not fit is one trial's
        failure.
        """
        is_group = _groups(self._loader)
        check_names(space, _settings(self._config), is_group)
        grid = (space.overrides(point) for point in space.grid())
        keys = [axis.key for axis in space.axes]
        plain = {key for key in keys if not is_group(key.partition("@")[0])}
        tried = list(space.probes() if space.sampled else grid)
        misfits: list[ConfigError] = []
        for overrides in tried:
            try:
                config = check(self._composed(overrides, plain))
                check_start(config)
                make_pruner(config.meta.search_scheduler, config.env.max_frame)
            except (ConfigError, HydraException) as error:
                varied = " ".join(overrides[len(space.fixed) :])
                wrong = ConfigError(varied, _first_line(error))
                if not isinstance(error, FitError):
                    raise wrong from error
                misfits.append(wrong)
        if misfits and len(misfits) == len(tried):
            raise misfits[0]

    def _composed(self, overrides: Sequence[str], plain: set[str]) -> DictConfig:
        """Compose a trial, sharing the slow part among those that differ in values only."""
        values = [text for text in overrides if text.partition("=")[0] in plain]
        rest = tuple(text for text in overrides if text not in values)
        if rest not in self._bases:
            config = self._loader.load_sweep_config(self._config, list(rest))
            self._bases[rest] = without_hydra(config)
        composed = self._bases[rest].copy()
        with open_dict(composed):
            for text in values:
                override = OverridesParser.create().parse_override(text)
                OmegaConf.update(composed, override.key_or_group, override.value())
        return composed


def _groups(loader: Any) -> Any:
    known: dict[str, bool] = {}

    def is_group(name: str) -> bool:
        if name not in known:
            known[name] = bool(loader.get_group_options(name))
        return known[name]

    return is_group


def _settings(config: DictConfig) -> dict[str, Any]:
    """Return all settings by their dotted names, groups of settings included."""

    def flat(tree: Any, where: str) -> Generator[tuple[str, Any]]:
        if isinstance(tree, dict):
            for key, value in cast("dict[Any, Any]", tree).items():
                yield f"{where}{key}", value
                yield from flat(value, f"{where}{key}.")

    return dict(flat(OmegaConf.to_container(without_hydra(config)), ""))


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
