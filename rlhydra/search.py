"""The study of a sweep: Optuna's journal in the sweep folder, written by every trial's process."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from filelock import FileLock
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, QMCSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from rlhydra.experiment import JOURNAL
from rlhydra.schema import ConfigError, near
from rlhydra.space import Axis, Interval, Space, Value

STATES = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "diverged": TrialState.FAIL,
    "failed": TrialState.FAIL,
}

GRID = "grid"
SHORT = {"random": "RandomSampler", "qmc": "QMCSampler", "tpe": "TPESampler",
         "cmaes": "CmaEsSampler", "gp": "GPSampler", "nsgaii": "NSGAIISampler"}  # fmt: skip
# These ask nothing of finished trials, so all of theirs can be drawn at once.
UP_FRONT = ("RandomSampler", "QMCSampler", GRID)
NEEDS = {"QMCSampler": "scipy", "CmaEsSampler": "cmaes", "GPSampler": "scipy"}


class _Lock:
    """A lock on the journal that its holder's death releases: Optuna's own waits for 30 s."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._lock = FileLock(journal.with_name(f".{journal.name}.lock"))

    def acquire(self) -> bool:
        """Wait for the lock; drop what a killed writer left of a line."""
        self._lock.acquire()
        with self._journal.open("rb+") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 1))
            if size and file.read() != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Let others write."""
        self._lock.release()


def open_study(folder: Path, pruner: BasePruner | None = None) -> Study:
    """Open the study of the sweep in `folder`; make it where there is none."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / JOURNAL
    backend = JournalFileBackend(str(path), lock_obj=cast("Any", _Lock(path)))
    return optuna.create_study(
        study_name=folder.name,
        storage=JournalStorage(backend),
        direction="maximize",
        pruner=pruner or NopPruner(),
        load_if_exists=True,
    )


def trial_of(study: Study, number: int) -> Trial:
    """Return trial `number`, to report to."""
    return Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)  # pyright: ignore[reportPrivateUsage]


def tell(study: Study, number: int, status: str, objective: float | None) -> None:
    """Record how a trial ended; what was recorded before stays, an interrupted one is to go on."""
    state = STATES.get(status)
    if state is TrialState.COMPLETE and objective is None:
        state = TrialState.FAIL
    if state is None:
        return
    value = objective if state is TrialState.COMPLETE else None
    study.tell(number, value, state=state, skip_if_finished=True)


def importances(folder: Path) -> dict[str, float]:
    """Return how much each parameter decides whether a score is good; {} of too few trials."""
    study = open_study(folder)
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    varied = {key for trial in done for key in trial.params}
    if len(done) < 4 or len({trial.value for trial in done}) < 2 or not varied:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return optuna.importance.get_param_importances(study, evaluator=evaluator)


class Sampling:
    """Draws the trials of a sweep, each from the seed and its number.

    So it is no matter when the sweep is started, stopped or extended.
    """

    def __init__(
        self, space: Space, name: str, kwargs: Mapping[str, Any], seed: int, limit: int
    ) -> None:
        """Prepare to sample, at most `limit` trials.

        Raises:
            ConfigError: for a sampler that does not exist, lacks its package or cannot have these
                settings or this space.
        """
        self._seed = seed
        self._kwargs = dict(kwargs)
        self._distributions = {axis.key: _distribution(axis) for axis in space.axes}
        self._class: type[BaseSampler] | None = None
        self._points: Sequence[Mapping[str, Value]] = ()
        self.up_front = True
        self.count = limit
        if not space.sampled:
            self._points = space.grid()
            self.count = len(self._points)
        elif name == GRID:
            self._points = _shuffled_grid(space, seed)
            self.count = min(limit, len(self._points))
        else:
            self._class = _sampler_class(name, self._kwargs)
            self.up_front = self._class.__name__ in UP_FRONT

    def check(self, study: Study) -> None:
        """Raise ConfigError where the study's trials are of another space."""
        for trial in study.get_trials(deepcopy=False):
            for name, distribution in trial.distributions.items():
                if self._distributions.get(name) != distribution:
                    problem = f"holds a study with another space of {name}; choose another folder"
                    raise ConfigError(study.study_name, problem)
            if self._points and dict(self._points[trial.number]) != {
                **self._points[trial.number], **trial.params
            }:  # fmt: skip
                raise ConfigError(study.study_name, "holds another grid; choose another folder")

    def draw(self, study: Study, count: int) -> list[dict[str, Value]]:
        """Return the parameters of the first `count` trials of the study; draw those that lack."""
        for frozen in study.get_trials(deepcopy=False):
            if frozen.state is TrialState.RUNNING and len(frozen.params) < len(self._distributions):
                study.sampler = self._sampler(frozen.number)  # its drawing was interrupted
                trial = trial_of(study, frozen.number)
                for name, distribution in self._distributions.items():
                    trial._suggest(name, distribution)  # pyright: ignore[reportPrivateUsage]
        for number in range(len(study.get_trials(deepcopy=False)), count):
            study.sampler = self._sampler(number)
            study.ask(self._distributions)
        return [trial.params for trial in study.get_trials(deepcopy=False)[:count]]

    def _sampler(self, number: int) -> BaseSampler:
        if self._class is None:
            return _Listed(self._points)
        make = cast("Any", self._class)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if not issubclass(self._class, QMCSampler):
                return make(**self._kwargs, seed=_seed(self._seed, number))
            defaults = {"scramble": True, "warn_independent_sampling": False}
            sampler = make(**{**defaults, **self._kwargs}, seed=_seed(self._seed))
            # By itself it waits for a finished trial to see the space.
            space = {k: d for k, d in self._distributions.items() if not d.single()}
            sampler.infer_relative_search_space = partial(_whole, space)
            return sampler


class _Listed(BaseSampler):
    """Gives trial n the n-th of points that are listed."""

    def __init__(self, points: Sequence[Mapping[str, Value]]) -> None:
        self._points = points

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return nothing: each parameter is looked up by itself."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the value of the trial's point."""
        return self._points[trial.number][param_name]


def _whole(
    space: dict[str, BaseDistribution], study: Study, trial: FrozenTrial
) -> dict[str, BaseDistribution]:
    return space


def _seed(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def _distribution(axis: Axis) -> BaseDistribution:
    if not isinstance(axis, Interval):
        return CategoricalDistribution(axis.values)
    if axis.whole:
        return IntDistribution(round(axis.low), round(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def _shuffled_grid(space: Space, seed: int) -> list[dict[str, Value]]:
    for axis in space.axes:
        if isinstance(axis, Interval):
            problem = "the grid sampler wants choices or ranges, got an interval"
            raise ConfigError(axis.key, problem)
    points = space.grid()
    order = np.random.default_rng(_seed(seed)).permutation(len(points))
    return [points[i] for i in order]


def _sampler_class(name: str, kwargs: Mapping[str, Any]) -> type[BaseSampler]:
    known = [n for n in optuna.samplers.__all__ if n.endswith("Sampler") and "Base" not in n]
    name = SHORT.get(name, name)
    if name not in known:
        names = [*SHORT, GRID, *known]
        problem = f"there is no sampler {name}{near(name, names)}"
        raise ConfigError("hydra.sweeper.sampler", problem)
    _check_package(name)
    found = cast("type[BaseSampler]", getattr(optuna.samplers, name))
    accepted = inspect.signature(found.__init__).parameters
    for key in kwargs:
        if key not in accepted or key in ("self", "seed"):
            problem = f"{name} has no such setting{near(key, accepted)}"
            raise ConfigError(f"hydra.sweeper.sampler_kwargs.{key}", problem)
    return found


def _check_package(name: str) -> None:
    package = NEEDS.get(name)
    if package is None:
        return
    try:
        __import__(package)
    except ImportError:
        problem = f"{name} needs {package}: install rlhydra[search]"
        raise ConfigError("hydra.sweeper.sampler", problem) from None
