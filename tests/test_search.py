"""The space of a sweep, and its trials in the study."""

import itertools
import math

import optuna
import pytest
from hydra.core.global_hydra import GlobalHydra

from rlhydra.schema import ConfigError
from rlhydra.search import Sampling, importances, open_study, tell
from rlhydra.space import Choices, Interval, check_names, read_space

SPACE = {
    "agent.lr": "tag(log, interval(1e-4, 1e-2))",
    "agent.epochs": "int(interval(2, 8))",
    "agent.gamma": "choice(0.9, 0.99)",
}


def space_of(*arguments, params=None):
    GlobalHydra.instance().clear()
    return read_space(params or {}, arguments, None)


def drawn(folder, space, count, sampler="random", seed=3, **kwargs):
    folder.mkdir(exist_ok=True)
    return Sampling(space, sampler, kwargs, seed, count).draw(open_study(folder), count)


def test_commas_and_ranges_alone_are_all_their_combinations():
    space = space_of("a=1,2", "fixed=x", "b=range(0, 3)", "c=[1,2]")
    assert not space.sampled
    assert space.fixed == ("fixed=x", "c=[1,2]")
    lines = [space.overrides(point)[2:] for point in space.grid()]
    assert lines == [[f"a={a}", f"b={b}"] for a, b in itertools.product((1, 2), (0, 1, 2))]


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("interval(1, 5)", Interval("a", 1, 5, whole=False, log=False)),
        ("int(interval(1, 5))", Interval("a", 1, 5, whole=True, log=False)),
        ("tag(int, log, interval(1, 64))", Interval("a", 1, 64, whole=True, log=True)),
        ("choice(1, x, [1,2])", Choices("a", ("1", "x", "[1,2]"), (1, "x", "[1,2]"))),
        ("1,true,1.0", Choices("a", ("1", "True", "1.0"), ("1", "True", "1.0"))),
    ],
)
def test_an_expression_is_an_axis(text, axis):
    assert space_of(f"a={text}").axes == (axis,)


def test_the_command_line_wins_over_the_space():
    space = space_of("agent.gamma=0.5", "agent.epochs=1,2", params=SPACE)
    assert space.sampled
    assert space.fixed == ("agent.gamma=0.5",)
    assert [axis.key for axis in space.axes] == ["agent.lr", "agent.epochs"]


@pytest.mark.parametrize("text", ["interval(2, 1)", "tag(log, interval(0, 1))", "interval(1"])
def test_an_expression_that_cannot_be_sampled_is_an_error(text):
    with pytest.raises(ConfigError, match="interval"):
        space_of(params={"a": text})


def test_a_name_that_does_not_exist_has_near_matches():
    with pytest.raises(ConfigError, match=r"agent\.lrr.*did you mean agent\.lr"):
        check_names(space_of("agent.lrr=1,2"), ["agent.lr", "seed"], lambda _: False)


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "RandomSampler"])
def test_samples_lie_in_the_space_and_follow_from_the_seed(sampler, tmp_path):
    space = space_of(params=SPACE)
    points = drawn(tmp_path / "a", space, 8, sampler)
    assert points == drawn(tmp_path / "b", space, 8, sampler)
    assert points != drawn(tmp_path / "c", space, 8, sampler, seed=4)
    assert len({point["agent.lr"] for point in points}) == 8
    for point in points:
        assert 1e-4 <= point["agent.lr"] <= 1e-2
        assert point["agent.epochs"] in range(2, 9)
        assert point["agent.gamma"] in (0.9, 0.99)


def test_quasi_random_samples_are_spread_over_all_orders_of_magnitude(tmp_path):
    points = drawn(tmp_path, space_of(params=SPACE), 8, "qmc")
    eighths = [math.floor(4 * math.log10(point["agent.lr"] / 1e-4)) for point in points]
    assert sorted(eighths) == list(range(8))


def test_a_study_is_extended_where_it_stopped_even_in_the_midst_of_a_trial(tmp_path):
    space = space_of(params=SPACE)
    whole = drawn(tmp_path / "whole", space, 6)
    drawn(tmp_path / "parts", space, 2)
    study = open_study(tmp_path / "parts")
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    study.ask()  # a driver that was killed before it drew the parameters
    assert drawn(tmp_path / "parts", space, 6) == whole


def test_the_grid_sampler_draws_each_point_once(tmp_path):
    space = space_of(params={"a": "choice(1, 2, 3)", "b": "choice(x, y)"})
    sampling = Sampling(space, "grid", {}, 0, 100)
    points = sampling.draw(open_study(tmp_path), sampling.count)
    assert sorted(map(str, points)) == sorted(map(str, space.grid()))
    with pytest.raises(ConfigError, match="interval"):
        Sampling(space_of(params=SPACE), "grid", {}, 0, 4)


@pytest.mark.parametrize(
    ("name", "kwargs", "problem"),
    [("tpee", {}, "did you mean tpe"), ("tpe", {"n_startup": 3}, "did you mean n_startup_trials")],
)
def test_a_sampler_that_does_not_exist_is_an_error(name, kwargs, problem):
    with pytest.raises(ConfigError, match=problem):
        Sampling(space_of(params=SPACE), name, kwargs, 0, 4)


def test_another_space_does_not_fit_into_the_study(tmp_path):
    drawn(tmp_path, space_of(params=SPACE), 2)
    other = Sampling(space_of(params={**SPACE, "agent.lr": "interval(0, 1)"}), "random", {}, 3, 2)
    with pytest.raises(ConfigError, match="another space"):
        other.check(open_study(tmp_path))


def test_optuna_alone_reads_the_study(tmp_path):
    drawn(tmp_path, space_of(params=SPACE), 4)
    ends = [("completed", 1.0), ("pruned", 0.5), ("failed", None), ("interrupted", None)]
    for number, (status, objective) in enumerate(ends):
        tell(open_study(tmp_path), number, status, objective)
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.journal"))
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert study.best_trial.number == 0


def test_a_line_that_was_cut_off_by_a_killed_writer_is_dropped(tmp_path):
    points = drawn(tmp_path, space_of(params=SPACE), 2)
    with (tmp_path / "study.journal").open("a") as file:
        file.write('{"op_code": 4, "tri')
    assert drawn(tmp_path, space_of(params=SPACE), 3)[:2] == points


def test_importances_want_scores_that_differ(tmp_path):
    space = space_of(params={"a": "interval(0, 1)", "b": "interval(0, 1)"})
    points = drawn(tmp_path, space, 12)
    assert importances(tmp_path) == {}
    for number, point in enumerate(points):
        tell(open_study(tmp_path), number, "completed", 10 * point["a"])
    weights = importances(tmp_path)
    assert weights["a"] > weights["b"]
