"""Trials and sweeps side by side: names, tables, curves and the aggregate over environments."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rich.console import Console

from rlhydra.comparison import aggregates, compared, table
from rlhydra.metrics import stratified_interval
from rlhydra.record import read_trial
from rlhydra.report import main
from tests.test_report import make_trial


def test_the_table_fits_into_80_columns(tmp_path, capsys):
    one = make_trial(tmp_path / "one")
    other = make_trial(tmp_path / "other", (25.0, 35.0, 45.0), agent="a2c", status="interrupted")
    Console(width=80).print(table(compared([read_trial(one), read_trial(other)])))
    lines = capsys.readouterr().out.splitlines()
    assert not any("…" in line for line in lines)
    row = next(line for line in lines if "a2c (interrupted)" in line).split()
    # 25 beats two of three final returns, 35 and 45 beat all: 8 of 9. Sample efficiency: the
    # mean of (4 / 20 + (final - 2) / 30) / (4 + final - 2).
    assert row[2:] == ["3", "30", "35", "35", "0.0352", "0.89"]


def test_names_tell_trials_of_one_agent_apart(tmp_path):
    trials = [
        make_trial(tmp_path / "a", overrides=("agent.lr=1e-3", "seed=1")),
        make_trial(tmp_path / "b", overrides=("agent.lr=1e-4", "seed=1")),
        make_trial(tmp_path / "c", overrides=("agent.lr=1e-4", "seed=1")),
        make_trial(tmp_path / "d", agent="dqn"),
        make_trial(tmp_path / "e", env="Acrobot-v1"),
    ]
    labels = [entry.label for entry in compared([read_trial(trial) for trial in trials])]
    assert labels == ["ppo lr=1e-3", "ppo lr=1e-4 (b)", "ppo lr=1e-4 (c)", "dqn", "ppo"]


def test_the_aggregate_is_scaled_by_the_random_policy_and_the_best(tmp_path):
    make = {
        ("ppo", "CartPole-v1"): (10.0, 20.0, 30.0),
        ("dqn", "CartPole-v1"): (30.0, 40.0, 50.0),
        ("ppo", "Acrobot-v1"): (-80.0, -80.0, -80.0),
        ("dqn", "Acrobot-v1"): (-290.0, -290.0, -290.0),
    }
    baselines = {"CartPole-v1": 0.0, "Acrobot-v1": -500.0}
    trials = [
        make_trial(tmp_path / f"{agent}{env}", finals, agent=agent, env=env,
                   random_return=baselines[env])
        for (agent, env), finals in make.items()
    ]  # fmt: skip
    ppo, dqn = aggregates(compared([read_trial(trial) for trial in trials]))
    assert (ppo.label, dqn.label) == ("ppo", "dqn")
    assert ppo.mean == pytest.approx((20 / 40 + 1) / 2)
    assert dqn.mean == pytest.approx((1 + 210 / 420) / 2)
    assert ppo.iqm == pytest.approx(np.mean([0.5, 0.75, 1, 1]))
    assert ppo.low <= ppo.iqm <= ppo.high
    assert ppo.improvement is None
    assert dqn.improvement == pytest.approx((17 / 18 + 0) / 2)  # 30 ties with 30


def test_no_aggregate_of_one_environment_or_without_a_baseline(tmp_path):
    one = read_trial(make_trial(tmp_path / "one"))
    other = read_trial(make_trial(tmp_path / "other", env="Acrobot-v1", random_return=None))
    assert aggregates(compared([one, one])) == []
    assert aggregates(compared([one, other])) == []


def test_the_stratified_interval_draws_from_each_group():
    assert stratified_interval([np.array([1.0, 1, 1]), np.array([5.0, 5, 5])]) == (3, 3)
    assert stratified_interval([np.array([1.0, 1]), np.array([5.0, 5, 5])]) == (None, None)


def test_trials_and_sweeps_are_compared_in_one_place(tmp_path, capsys, monkeypatch):
    sweep = tmp_path / "sweep"
    make_trial(sweep / "0", agent="dqn", overrides=("agent=dqn",))
    make_trial(sweep / "1", agent="dqn", env="Acrobot-v1", overrides=("agent=dqn",))
    (sweep / "multirun.yaml").write_text(json.dumps({}))
    trials = [make_trial(tmp_path / env, env=env) for env in ("CartPole-v1", "Acrobot-v1")]
    monkeypatch.chdir(tmp_path)
    assert main([*map(str, trials), str(sweep)]) == 0
    text = (tmp_path / "comparison" / "report.md").read_text("utf-8")
    assert text.startswith("# 4 trials\n\n## Over all environments\n\n| agent |")
    assert "not a human's" in text
    for env in ("CartPole-v1", "Acrobot-v1"):
        assert f"## {env}\n\n| trial |" in text
        assert (tmp_path / "comparison" / "plots" / f"{env}.png").stat().st_size > 1000
    page = (tmp_path / "comparison" / "report.html").read_text("utf-8")
    assert page.count("data:image/png") == 2
    assert (sweep / "report.html").is_file()
    assert "comparison/report.html" in capsys.readouterr().out
    assert main([*map(str, trials), "--to", "elsewhere"]) == 0
    assert (tmp_path / "elsewhere" / "report.md").is_file()
