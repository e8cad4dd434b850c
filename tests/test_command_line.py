"""The command line: what composes, and how wrong ones end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlhydra.config import digest, parse
from tests.conftest import composed

WRONG = {
    # groups
    "agent=poo": "poo",
    "env=cartpoel": "cartpoel",
    "meta=fast": "fast",
    "experiment=none_such": "none_such",
    "evn=cartpole": "evn",
    # unknown settings, also where Hydra is told to add them
    "agent.learning_rate=1e-3": "learning_rate",
    "+agent.learning_rate=1e-3": r"agent\.learning_rate: no such setting",
    "+agent.lrr=1e-3": r"did you mean lr\?",
    "meta.max_sessions=2": "max_sessions",
    "+meta.max_sessions=2": r"meta\.max_sessions: .*did you mean max_session",
    "+env.nmu_envs=2": r"env\.nmu_envs: .*did you mean num_envs",
    "+sede=1": r"sede: no such setting \(did you mean seed\?\)",
    # types
    "agent.lr=fast": r"agent\.lr: expected a number, got 'fast'",
    "agent.epochs=2.5": r"agent\.epochs: expected a whole number, got 2\.5",
    "agent.normalise_obs=1": r"agent\.normalise_obs: expected true or false",
    "agent.net.hidden=64": r"agent\.net\.hidden: expected a list",
    "agent.net.hidden=[64,x]": r"agent\.net\.hidden\[1\]: expected a whole number",
    "env.kwargs=3": r"env\.kwargs: expected a group",
    "agent.optimizer=Adam": r"agent\.optimizer: expected a group",
    "seed=abc": r"seed: expected a whole number",
    "env.max_frame=null": r"env\.max_frame: expected",
    # ranges
    "agent.gamma=1.5": r"agent\.gamma: expected a number >= 0 and <= 1, got 1\.5",
    "agent.lr=-1e-3": r"agent\.lr: expected a number >= 0",
    "meta.max_session=0": r"meta\.max_session: expected a number > 0, got 0",
    "env.num_envs=-1": r"env\.num_envs",
    "meta.rigorous_eval=-1": r"meta\.rigorous_eval",
    "seed=-1": r"seed: expected a number >= 0",
    # choices
    "meta.distributed=true": r"meta\.distributed: expected one of false, shared, synced",
    "meta.keep=some": r"meta\.keep: expected one of latest, all; got 'some'",
    "meta.metric=reward": r"meta\.metric: expected one of final_return",
    "agent.net.activation=swish": r"agent\.net\.activation: expected one of",
    "agent.optimizer.name=Adan": r"agent\.optimizer\.name: expected one of",
    "+agent.lr={start: 1e-3, end: 0, kind: cosine}": r"agent\.lr\.kind: expected one of linear",
    "+agent.lr={start: 1e-3, end: 0, kind: exponential}": r"agent\.lr: .*above 0",
    # settings that do not fit each other
    "agent.minibatch_size=100": r"agent\.minibatch_size: 100 does not divide .* use a divisor",
    "agent.net.kind=nature": r"agent\.net\.kind: nature does not fit .*use mlp",
    # environments
    "env=gym": r"env\.id: this setting is missing",
    "env.id=CartPol-v1": r"env\.id: CartPol-v1 .*CartPole",
    "env.id=no_such_package:Env-v0": r"env\.id: .*no_such_package",
    "env.kwargs={nonsense: 1}": r"env\.id: .*nonsense",
    # extension points
    "agent._target_=os.system": r"agent\._target_",
    "env._target_=rlhydra.clock.Clock": r"env\._target_",
    "agent._target_=nowhere.Agent": r"agent\._target_: there is no module nowhere",
    # grammar
    "agent.lr=1e-3=2": "mismatched",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_command_line_names_its_fault_and_writes_nothing(wrong, command_line, tmp_path):
    code, out, err = command_line(wrong)
    assert code == 1
    assert re.search(WRONG[wrong], out + err)
    assert "Traceback" not in out + err
    assert not list(tmp_path.iterdir())
    if err.startswith("rlhydra: "):
        assert len(err.splitlines()) <= 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("agent=crossq", r"meta\.distributed: .* parameters of CrossQ; use false"),
        ("agent=random", r"meta\.distributed: .* parameters of Random; use false"),
        ("agent.optimizer.name=SGD", r"optimizer\.name: .* state of SGD .*; use Adam or RMSprop"),
        ("agent.optimizer.name=AdamW", r"optimizer\.name: .* state of AdamW .*; use Adam or"),
        ("+agent.optimizer.kwargs.amsgrad=true", r"kwargs\.amsgrad: .* where Adam takes betas"),
    ],
)
def test_what_sessions_cannot_share_is_refused(wrong, message, command_line, tmp_path):
    code, _, err = command_line("meta.distributed=shared", wrong)
    assert code == 1
    assert re.search(message, err)
    assert not list(tmp_path.iterdir())


def test_an_agent_that_cannot_act_in_the_action_space_is_refused(command_line, tmp_path):
    code, _, err = command_line("agent=dqn", "env=pendulum")
    assert code == 1
    assert "discrete" in err
    assert "Pendulum-v1" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", ["1e7", "10_000_000", "10000000", "1.0e7"])
def test_a_count_may_be_written_as_people_write_it(count):
    config = parse(composed(f"env.max_frame={count}", f"meta.eval_frequency={count}"))
    assert config.env.max_frame == 10_000_000
    assert digest(composed(f"meta.eval_frequency={count}")) == digest(
        composed("meta.eval_frequency=10000000")
    )


def test_an_environment_selects_its_family_and_the_command_line_wins():
    assert composed("env=pong") == composed("meta=atari", "env=pong")
    pong = composed("env=pong")
    assert (pong.env.num_envs, pong.agent.horizon, pong.agent.epochs) == (16, 128, 4)
    assert (pong.agent.clip, pong.agent.lr) == (0.1, {"start": 2.5e-4, "end": 0})
    assert pong.agent.net.kind == "nature"
    assert pong.meta.eval_frequency == 10_000
    assert composed("env=pong", "meta=classic").meta.eval_frequency == 500
    assert composed("env=pong", "agent.clip=0.3").agent.clip == 0.3
    both = composed("env=pong", "meta=[atari,asha]").meta
    assert both.search_scheduler == {"grace_period": 100_000, "reduction_factor": 3}


@pytest.mark.parametrize(
    ("preset", "log", "eval_", "sessions", "trials"),
    [
        ("classic", 500, 500, 4, 1),
        ("box2d", 1000, 1000, 4, 1),
        ("mujoco", 10_000, 10_000, 4, 1),
        ("atari", 10_000, 10_000, 4, 1),
        ("dev", 500, 500, 1, 1),
        ("standard", 1000, 1000, 4, 1),
        ("asha", 10_000, 10_000, 1, 16),
    ],
)
def test_the_presets_are_those_of_the_contract(preset, log, eval_, sessions, trials):
    meta = composed(f"meta={preset}").meta
    assert (meta.log_frequency, meta.eval_frequency) == (log, eval_)
    assert (meta.max_session, meta.max_trial) == (sessions, trials)


def test_help_is_our_own_and_shows_examples(command_line):
    code, out, _ = command_line("--help")
    assert code == 0
    for expected in ("env: ", "agent: ", "meta: ", "python -m rlhydra env=pong"):
        assert expected in out


@pytest.mark.parametrize("option", ["--cfg=job", "--cfg=hydra", "--info=defaults", "--info=config"])
def test_hydras_own_views_work(option, command_line, tmp_path):
    code, out, _ = command_line(option)
    assert code == 0
    assert out
    assert not [path for path in tmp_path.iterdir() if path.name != "outputs"]


def test_a_users_folder_adds_choices(command_line, tmp_path):
    folder = tmp_path / "mine" / "env"
    folder.mkdir(parents=True)
    (folder / "my_acrobot.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /family: classic\n"
        "env:\n  id: Acrobot-v1\n  max_frame: 1e3\n"
    )
    code, out, _ = command_line("--config-dir", str(folder.parent), "env=my_acrobot", "--cfg=job")
    assert code == 0
    assert "id: Acrobot-v1" in out
    assert Path(folder).is_dir()
