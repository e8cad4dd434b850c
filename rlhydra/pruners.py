"""Which trials stop early: Optuna's pruners by name, as `meta.search_scheduler` has it."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
    WilcoxonPruner,
)

from rlhydra.config import Pruner, SearchScheduler
from rlhydra.schema import ConfigError, near

CLASSES: dict[Pruner, type[BasePruner]] = {
    "asha": SuccessiveHalvingPruner,
    "hyperband": HyperbandPruner,
    "median": MedianPruner,
    "percentile": PercentilePruner,
    "patient": PatientPruner,
    "threshold": ThresholdPruner,
    "wilcoxon": WilcoxonPruner,
}


def make_pruner(scheduler: SearchScheduler | None, max_frame: int) -> BasePruner:
    """Return the pruner of trials of `max_frame` frames; asha stops at grace x reductionⁿ frames.

    Raises:
        ConfigError: for settings that it does not have, or lacks.
    """
    if scheduler is None:
        return NopPruner()
    halving = {
        "min_resource": scheduler.grace_period,
        "reduction_factor": scheduler.reduction_factor,
    }
    given: dict[str, dict[str, Any]] = {
        "asha": halving,
        "hyperband": {**halving, "max_resource": max_frame},
        "patient": {"wrapped_pruner": SuccessiveHalvingPruner(**halving)},
    }
    ours = given.get(scheduler.pruner, {})
    found = CLASSES[scheduler.pruner]
    accepted = set(inspect.signature(found).parameters) - ours.keys()
    for key in scheduler.kwargs:
        if key not in accepted:
            problem = f"{found.__name__} has no such setting{near(key, accepted)}"
            raise ConfigError(f"meta.search_scheduler.kwargs.{key}", problem)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return found(**ours, **scheduler.kwargs)
    except (TypeError, ValueError) as error:
        raise ConfigError("meta.search_scheduler.kwargs", f"{found.__name__}: {error}") from error
