"""Measures the learning curve of a session, and of a trial's sessions with 95 % intervals.

A curve is the rows of eval.csv: frame fᵢ, optimizer steps oᵢ and return Rᵢ; sᵢ = Rᵢ - R_random is
its excess over a uniformly random policy. What cannot be computed is None, never 0 or NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

SESSION_METRICS = (
    "final_return",
    "best_return",
    "strength",
    "max_strength",
    "final_strength",
    "sample_efficiency",
    "training_efficiency",
    "stability",
)
TRIAL_METRICS = (*SESSION_METRICS, "consistency")


class Metric(TypedDict):
    """A metric of a trial: mean over sessions, the mean's 95 % interval, each session's value."""

    mean: float | None
    low: float | None
    high: float | None
    sessions: list[float | None]


@dataclass(frozen=True)
class Curve:
    """The eval rows of one session; the return is NaN before the first game's end."""

    frame: FloatArray
    opt_step: FloatArray
    return_mean: FloatArray


def final_return(returns: FloatArray) -> float | None:
    """Return Rₙ, the last return."""
    return _number(returns[-1]) if returns.size else None


def best_return(returns: FloatArray) -> float | None:
    """Return max Rᵢ."""
    return _number(returns.max()) if returns.size else None


def strength(excess: FloatArray) -> float | None:
    """Return the mean of sᵢ."""
    return _number(excess.mean()) if excess.size else None


def efficiency(excess: FloatArray, cost: FloatArray) -> float | None:
    """Return Σ(sᵢ / cᵢ) / Σ sᵢ, with the frames or optimizer steps until then as costs cᵢ.

    Rows of no cost yet are left out of both sums: an off-policy agent is evaluated before its
    first optimizer step.
    """
    paid = cost > 0
    return _ratio((excess[paid] / cost[paid]).sum(), excess[paid].sum())


def stability(excess: FloatArray) -> float | None:
    """Return 1 - |Σ min(sᵢ₊₁ - sᵢ, 0)| / |Σᵢ₍<ₙ₎ sᵢ|: 1 for a curve that never falls."""
    if excess.size < 2:
        return None
    losses = np.minimum(np.diff(excess), 0.0).sum()
    return _complement(_ratio(abs(losses), abs(excess[:-1].sum())))


def consistency(excess: FloatArray) -> float | None:
    """Return 1 - Σᵢ 2 stdⱼ(sᵢⱼ) / Σᵢ meanⱼ(sᵢⱼ) of sessions j: 1 where they do not differ.

    `excess` is (sessions, rows); rows that any session lacks (NaN) are skipped. The deviation is
    that of the population (divisor: the number of sessions).
    """
    complete = excess[:, np.isfinite(excess).all(axis=0)]
    if complete.shape[0] < 2 or not complete.shape[1]:
        return None
    return _complement(_ratio(2 * complete.std(axis=0).sum(), complete.mean(axis=0).sum()))


def session_metrics(
    frame: ArrayLike, opt_step: ArrayLike, return_mean: ArrayLike, random_return: float | None
) -> dict[str, float | None]:
    """Return the metrics of one session; without `random_return` only the two returns are known."""
    returns = np.asarray(return_mean, np.float64)
    valid = np.isfinite(returns)
    returns = returns[valid]
    values: dict[str, float | None] = dict.fromkeys(SESSION_METRICS)
    values |= {"final_return": final_return(returns), "best_return": best_return(returns)}
    if random_return is None:
        return values
    excess = returns - random_return
    return values | {
        "strength": strength(excess),
        "max_strength": best_return(excess),
        "final_strength": final_return(excess),
        "sample_efficiency": efficiency(excess, np.asarray(frame, np.float64)[valid]),
        "training_efficiency": efficiency(excess, np.asarray(opt_step, np.float64)[valid]),
        "stability": stability(excess),
    }


def trial_metrics(
    curves: Sequence[Curve], random_return: float | None, *, replicates: bool = True
) -> dict[str, Metric]:
    """Return every metric of a trial; a mean is over the sessions for which the metric is defined.

    `replicates` is false where the sessions train one set of parameters (`meta.distributed`): one
    learner, so there is no interval and no consistency.
    """
    each = [session_metrics(c.frame, c.opt_step, c.return_mean, random_return) for c in curves]
    metrics = {
        name: _over_sessions([values[name] for values in each], replicates)
        for name in SESSION_METRICS
    }
    agreement = _agreement(curves, random_return) if replicates else None
    metrics["consistency"] = Metric(mean=agreement, low=None, high=None, sessions=[])
    return metrics


def interquartile_mean(values: ArrayLike) -> float | None:
    """Return the mean without the lowest and the highest ⌊n / 4⌋ values (Agarwal et al., 2021)."""
    array = np.asarray(values, np.float64).ravel()
    return _number(middle_mean(array)) if array.size else None


def middle_mean(values: FloatArray) -> FloatArray:
    """Return the interquartile mean along the last axis: the `statistic` for `interval`."""
    count = values.shape[-1]
    cut = count // 4
    return np.sort(values, axis=-1)[..., cut : count - cut].mean(axis=-1)


def probability_of_improvement(values: ArrayLike, baseline: ArrayLike) -> float | None:
    """Return P(X > Y) + P(X = Y) / 2, X of `values`, Y of `baseline` (Agarwal et al., 2021).

    Both are runs on one environment; over several, average the probabilities.
    """
    one, other = np.asarray(values, np.float64), np.sort(np.asarray(baseline, np.float64))
    if not one.size or not other.size:
        return None
    below = np.searchsorted(other, one, side="left")
    not_above = np.searchsorted(other, one, side="right")
    return float((below + not_above).mean() / (2 * other.size))


def plain_mean(values: FloatArray) -> FloatArray:
    """Return the mean along the last axis: the default `statistic` for `interval`."""
    return values.mean(axis=-1)


def interval(
    values: ArrayLike,
    statistic: Callable[[FloatArray], FloatArray] = plain_mean,
    *,
    seed: int = 0,
    resamples: int = 10_000,
) -> tuple[float | None, float | None]:
    """Return the 95 % percentile bootstrap interval of `statistic`, the same at each call.

    Two values give their minimum and maximum (a spread, no interval), fewer give None.
    `statistic` works along the last axis.
    """
    array = np.asarray(values, np.float64)
    if array.size < 3:
        return (float(array.min()), float(array.max())) if array.size == 2 else (None, None)
    picks = np.random.default_rng(seed).integers(0, array.size, (resamples, array.size))
    low, high = np.percentile(statistic(array[picks]), (2.5, 97.5))
    return float(low), float(high)


def stratified_interval(
    groups: Sequence[FloatArray], *, seed: int = 0, resamples: int = 10_000
) -> tuple[float | None, float | None]:
    """Return the 95 % interval of the interquartile mean over groups, each drawn from by itself.

    A group is the runs on one environment (Agarwal et al., 2021). Groups of fewer than three runs
    give None.
    """
    if min(group.size for group in groups) < 3:
        return None, None
    generator = np.random.default_rng(seed)
    drawn = [group[generator.integers(0, group.size, (resamples, group.size))] for group in groups]
    low, high = np.percentile(middle_mean(np.concatenate(drawn, axis=1)), (2.5, 97.5))
    return float(low), float(high)


def mean_band(values: FloatArray, *, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Return low and high of the mean at each point of `values` (sessions, points).

    As `interval`; one session is its own minimum and maximum.
    """
    count = values.shape[0]
    if count < 3:
        return values.min(axis=0), values.max(axis=0)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), 2000)
    low, high = np.percentile(weights @ values / count, (2.5, 97.5), axis=0)
    return low, high


def _over_sessions(values: list[float | None], replicates: bool) -> Metric:
    defined = [value for value in values if value is not None]
    low, high = interval(defined) if replicates else (None, None)
    mean = _number(np.mean(defined)) if defined else None
    return Metric(mean=mean, low=low, high=high, sessions=values)


def _agreement(curves: Sequence[Curve], random_return: float | None) -> float | None:
    """Line the sessions up by eval row, as far as the shortest goes."""
    returns = [curve.return_mean for curve in curves if np.isfinite(curve.return_mean).any()]
    if random_return is None or not returns:
        return None
    rows = min(len(row) for row in returns)
    return consistency(np.stack([row[:rows] for row in returns]) - random_return)


def _number(value: float | np.floating | FloatArray) -> float | None:
    return float(value) if math.isfinite(float(value)) else None


def _ratio(numerator: float, denominator: float) -> float | None:
    return _number(numerator / denominator) if denominator else None


def _complement(value: float | None) -> float | None:
    return None if value is None else 1 - value
