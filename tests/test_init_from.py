"""`agent.init_from`: a new trial starts from the weights of another."""

from __future__ import annotations

import numpy as np
import pytest

from rlhydra import ConfigError, load, train
from rlhydra.build import build, load_config, start_from
from tests.conftest import composed
from tests.trained import untrained


def acts(agent, obs):
    return agent.play(obs, None, None)[0]


@pytest.mark.parametrize(
    ("agent", "env"),
    [("ppo", "cartpole"), ("dqn", "cartpole"), ("sac", "pendulum"), ("td3", "pendulum")],
)
def test_an_agent_takes_over_the_best_one_of_another_trial(tmp_path, agent, env):
    pair = (f"agent={agent}", f"env={env}")
    source = untrained(tmp_path / "source", *pair, scores=(1.0, 3.0, 2.0))
    new, envs = build(load_config(composed(*pair, "agent.gamma=0.9", "seed=5")), 0)
    envs.close()
    obs = np.random.default_rng(0).normal(size=(64, *new.obs_space.shape)).astype(np.float32)
    best = acts(load(source, session=1).agent, obs)
    assert (acts(new, obs) != best).any()
    start_from(new, source)
    assert (acts(new, obs) == best).all()


def test_a_trial_starts_from_another_and_keeps_its_weights_where_nothing_is_learned(tmp_path):
    source = untrained(tmp_path / "source")
    still = ("agent.lr=0", "env.max_frame=512", "meta.max_session=1", "meta.progress=false")
    result = train(*still, f"agent.init_from={source}", "seed=9", folder=tmp_path / "new")
    obs = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    assert (result.agent.act(obs) == load(source).act(obs)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("agent.net.hidden=[32]",), r"agent\.net: .*other layers: .*\(64, 4\) -> \(32, 4\)"),
        (("agent=dqn",), "another kind of agent: expected net; got net, obs_moments"),
        (("agent.normalise_obs=true",), "other normalisation settings"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, settings, message):
    new, envs = build(load_config(composed(*settings)), 0)
    envs.close()
    with pytest.raises(ConfigError, match=message):
        start_from(new, untrained(tmp_path / "source"))


def test_a_missing_source_ends_the_command_before_any_work(command_line, tmp_path):
    code, _, said = command_line(f"agent.init_from={tmp_path / 'nowhere'}")
    assert code == 1
    assert "nowhere" in said
    assert len(said.splitlines()) <= 2
    assert not list(tmp_path.iterdir())
