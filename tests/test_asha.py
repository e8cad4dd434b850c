"""Early stopping: two and more trials judged through one study."""

import math

import pytest

from rlhydra.asha import Judge
from rlhydra.config import parse
from rlhydra.schema import ConfigError
from rlhydra.search import Sampling, open_study, tell
from rlhydra.space import read_space
from tests.conftest import composed

ROWS = "frame,wall_time,opt_step,return_mean,return_std,episodes\n"


@pytest.fixture
def judges(tmp_path):
    """Return a function that makes the judge of a trial of a study of four."""
    space = read_space({}, ["seed=1,2,3,4"], None)
    Sampling(space, "random", {}, 0, 4).draw(open_study(tmp_path), 4)

    def make(number, *overrides, sessions=2, more=""):
        scheduler = f"meta.search_scheduler={{grace_period: 100, reduction_factor: 2{more}}}"
        settings = (f"meta.max_session={sessions}", "env.max_frame=1000", scheduler)
        return Judge(tmp_path, number, parse(composed(*settings, *overrides)), 0.0)

    return make


def report(judge, frame, *values):
    return [judge.report(k, frame, 1, value) for k, value in enumerate(values)][-1]


def test_a_trial_is_judged_at_rungs_by_the_mean_of_its_sessions(judges):
    good, bad = judges(0), judges(1)
    assert not report(good, 50, 1.0, 3.0)
    assert not report(good, 100, 1.0, 3.0)
    assert not report(bad, 50, -9.0, -9.0)  # before the first rung
    assert not bad.report(0, 100, 1, 9.0)  # the other session has not come so far
    assert bad.report(1, 100, 1, -9.0)  # mean 0 is below 2
    assert not report(good, 150, -5.0, -5.0)  # between rungs
    trials = open_study_of(judges)
    assert trials[0].intermediate_values == {50: 2.0, 100: 2.0, 150: -5.0}


def open_study_of(judges):
    return judges(3)._study.get_trials()


@pytest.mark.parametrize("value", [None, math.nan])
def test_an_undefined_score_is_the_worst(judges, value):
    assert not report(judges(0), 100, -1e9, -1e9)
    assert report(judges(1), 100, value, value)
    assert not report(judges(2), 100, -1e8, -1e8)


def test_a_lost_session_ends_the_trial_at_its_next_rung(judges):
    judge = judges(0)
    judge.lose(1)
    assert not judge.report(0, 50, 1, 9.0)
    assert judge.report(0, 100, 1, 9.0)


def test_a_trial_that_is_over_is_not_stopped(judges):
    assert not report(judges(0), 1000, 5.0, 5.0)
    assert not report(judges(1), 1000, 1.0, 1.0)


def test_without_a_scheduler_trials_report_and_go_on(judges):
    free = "meta.search_scheduler=null"
    assert not report(judges(0, free), 500, 5.0, 5.0)
    assert not report(judges(1, free), 500, None, 1.0)
    assert math.isnan(open_study_of(judges)[1].intermediate_values[500])


def test_a_trial_that_went_on_reports_no_step_twice(judges, tmp_path):
    judge = judges(0, sessions=1)
    report(judge, 40, 1.0)
    report(judge, 80, 2.0)
    folder = tmp_path / "0" / "session_0"
    folder.mkdir(parents=True)
    (folder / "eval.csv").write_text(f"{ROWS}40,0.1,1,1.0,0,1\n")  # its checkpoint knows one row
    again = judges(0, sessions=1)
    assert not report(again, 80, 2.0)
    assert not report(again, 120, 3.0)
    assert open_study_of(judges)[0].intermediate_values == {40: 1.0, 80: 2.0, 120: 3.0}


@pytest.mark.parametrize("pruner", [
    "asha", "hyperband", "median", "percentile, kwargs: {percentile: 50}",
    "patient, kwargs: {patience: 0}", "threshold, kwargs: {lower: 0}", "wilcoxon",
])  # fmt: skip
def test_pruners_by_name_stop_what_is_undefined_and_what_is_worse(judges, pruner):
    made = [judges(number, sessions=1, more=f", pruner: {pruner}") for number in (0, 1)]
    for frame in (50, 100, 200, 400):
        assert not report(made[0], frame, frame * 1.0)
    assert not report(made[1], 50, None)  # within the grace period
    assert report(made[1], 100, None)


def test_the_median_pruner_stops_a_trial_below_the_median_of_finished_ones(judges):
    median = ", pruner: median, kwargs: {n_startup_trials: 1}"
    good, bad = (judges(number, sessions=1, more=median) for number in (0, 1))
    report(good, 100, 5.0)
    tell(good._study, 0, "completed", 5.0)
    assert report(bad, 100, 4.0)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("pruner: medain", "expected one of asha"),
        ("pruner: median, kwargs: {n_startup: 1}", "did you mean n_startup_trials"),
        ("pruner: patient", "missing 1 required positional argument: 'patience'"),
        ("kwargs: {min_resource: 1}", "no such setting"),
    ],
)
def test_a_pruner_that_cannot_be_is_an_error(judges, settings, problem):
    with pytest.raises(ConfigError, match=problem):
        judges(0, more=f", {settings}")


def test_the_metric_is_the_one_that_is_asked_for(judges):
    judge = judges(0, "meta.metric=strength")
    report(judge, 40, 1.0, 3.0)
    report(judge, 80, 2.0, 6.0)
    assert open_study_of(judges)[0].intermediate_values == {40: 2.0, 80: 3.0}
