"""Metrics against curves with known answers, slow loops, and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from rlhydra.metrics import (
    TRIAL_METRICS,
    Curve,
    interquartile_mean,
    interval,
    mean_band,
    middle_mean,
    probability_of_improvement,
    session_metrics,
    trial_metrics,
)

NAN = math.nan


def curve(*returns):
    rows = np.arange(1, len(returns) + 1)
    return Curve(100.0 * rows, 10.0 * rows, np.array(returns, float))


def test_metrics_of_a_curve_worked_out_by_hand():
    # excess over the random return 1: 1, 3, 2, 4
    values = session_metrics([10, 20, 30, 40], [1, 2, 3, 4], [2, 4, 3, 5], 1.0)
    ratios = 1 / 10 + 3 / 20 + 2 / 30 + 4 / 40
    assert values == pytest.approx(
        {
            "final_return": 5,
            "best_return": 5,
            "strength": 2.5,
            "max_strength": 4,
            "final_strength": 4,
            "sample_efficiency": ratios / 10,
            "training_efficiency": 10 * ratios / 10,
            "stability": 1 - 1 / 6,
        }
    )


def test_rows_before_the_first_game_are_skipped():
    late = session_metrics([10, 20, 30], [1, 2, 3], [NAN, 4, 3], 1.0)
    assert late == session_metrics([20, 30], [2, 3], [4, 3], 1.0)


def test_rows_before_the_first_optimizer_step_do_not_count_in_training_efficiency():
    values = session_metrics([10, 20, 30], [0, 2, 4], [9, 3, 5], 1.0)
    assert values["training_efficiency"] == pytest.approx((2 / 2 + 4 / 4) / 6)
    assert values["sample_efficiency"] == pytest.approx((8 / 10 + 2 / 20 + 4 / 30) / 14)


def test_without_a_random_return_only_the_returns_are_known():
    values = session_metrics([10, 20], [1, 2], [2, 4], None)
    known = {name for name, value in values.items() if value is not None}
    assert known == {"final_return", "best_return"}


@pytest.mark.parametrize("returns", [[], [NAN, NAN]])
def test_without_a_row_everything_is_undefined(returns):
    frames = np.arange(1, len(returns) + 1)
    assert set(session_metrics(frames, frames, returns, 0.0).values()) == {None}


def test_undefined_is_none_and_never_zero():
    one_row = session_metrics([10], [1], [3], 1.0)
    assert one_row["stability"] is None
    assert one_row["strength"] == 2
    like_random = session_metrics([10, 20], [1, 2], [1, 1], 1.0)
    assert like_random["strength"] == 0
    assert like_random["sample_efficiency"] is like_random["stability"] is None


def test_metrics_equal_a_slow_reference():
    random = np.random.default_rng(0)
    for _ in range(20):
        n, baseline = int(random.integers(2, 30)), float(random.normal())
        f, o = np.cumsum(random.integers(1, 9, (2, n)), axis=1)
        s = random.normal(5, 3, n)
        values = session_metrics(f, o, s + baseline, baseline)
        falls = sum(min(s[i + 1] - s[i], 0) for i in range(n - 1))
        assert values["stability"] == pytest.approx(1 - abs(falls) / abs(sum(s[:-1])))
        for name, cost in (("sample_efficiency", f), ("training_efficiency", o)):
            expected = sum(s[i] / cost[i] for i in range(n)) / sum(s)
            assert values[name] == pytest.approx(expected)


def test_consistency_by_hand():
    # Rows 1 and 3: excess (1, 3) and (4, 4); deviations 1 and 0; row 2 is missing in one session.
    metrics = trial_metrics([curve(1, NAN, 4), curve(3, 9, 4, 7)], 0.0)
    assert metrics["consistency"]["mean"] == pytest.approx(1 - 2 * 1 / (2 + 4))
    same = trial_metrics([curve(1, 2), curve(1, 2)], 0.0)
    assert same["consistency"]["mean"] == 1


def test_a_trial_has_intervals_from_three_sessions_on():
    finals = [10.0, 20.0, 30.0, 60.0]
    four, two, one = (trial_metrics([curve(1, x) for x in finals[:n]], 0.0) for n in (4, 2, 1))
    assert tuple(four) == TRIAL_METRICS
    assert four["final_return"]["sessions"] == finals
    assert four["final_return"]["mean"] == 30
    assert 10 < four["final_return"]["low"] < 30 < four["final_return"]["high"] < 60
    assert four == trial_metrics([curve(1, x) for x in finals], 0.0)
    assert (two["final_return"]["low"], two["final_return"]["high"]) == (10, 20)
    assert one["final_return"] == {"mean": 10, "low": None, "high": None, "sessions": [10]}
    assert one["consistency"]["mean"] is None


def test_a_session_without_a_score_does_not_count_in_the_mean():
    metric = trial_metrics([curve(1, 10), curve(NAN), curve(1, 20)], 0.0)["final_return"]
    assert metric == {"mean": 15, "low": 10, "high": 20, "sessions": [10, None, 20]}


def test_sessions_of_one_set_of_parameters_have_no_interval():
    metrics = trial_metrics([curve(1, x) for x in (1, 2, 3)], 0.0, replicates=False)
    assert {metric["low"] for metric in metrics.values()} == {None}
    assert metrics["consistency"]["mean"] is None
    assert metrics["final_return"]["mean"] == 2


def test_no_sessions_leave_everything_undefined():
    assert {metric["mean"] for metric in trial_metrics([], 0.0).values()} == {None}


def test_interval_is_the_exact_bootstrap_within_its_noise():
    values = np.array([1.0, 2.0, 4.0, 8.0])
    every = np.stack(np.meshgrid(*[values] * 4), axis=-1).reshape(-1, 4).mean(axis=1)
    assert interval(values) == pytest.approx(np.percentile(every, (2.5, 97.5)), abs=0.3)
    low, high = interval(values, middle_mean)
    assert 1 <= low < high <= 8
    assert interval([3.0] * 5) == (3, 3)


def test_mean_band_follows_the_interval_at_each_point():
    values = np.array([[1.0, 5.0], [2.0, 5.0], [4.0, 5.0], [8.0, 5.0]])
    low, high = mean_band(values)
    assert (low[0], high[0]) == pytest.approx(interval(values[:, 0]), abs=0.3)
    assert (low[1], high[1]) == (5, 5)
    low, high = mean_band(values[:2])
    assert (low[0], high[0]) == (1, 2)


@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 11, 40])
def test_interquartile_mean_equals_the_trimmed_mean(n):
    values = np.random.default_rng(n).normal(size=n)
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25))
    assert interquartile_mean([]) is None


def test_probability_of_improvement_equals_mann_whitney():
    random = np.random.default_rng(0)
    one, other = random.integers(0, 6, 9).astype(float), random.integers(0, 6, 7).astype(float)
    expected = stats.mannwhitneyu(one, other).statistic / (9 * 7)
    assert probability_of_improvement(one, other) == pytest.approx(expected)
    assert probability_of_improvement([2, 3], [1]) == 1
    assert probability_of_improvement([1], [1]) == 0.5
    assert probability_of_improvement([], [1]) is None
