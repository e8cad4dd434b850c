import pytest

from rlhydra.baseline import GAMES, defining, known, random_return
from rlhydra.config import parse
from tests.conftest import composed


@pytest.mark.parametrize("env", ["cartpole", "pendulum", "hopper", "lunarlander", "breakout"])
def test_shipped_environments_have_a_known_baseline(env):
    config = parse(composed("agent=random", f"env={env}", "env.num_envs=16", "env.max_frame=1e4"))
    entry = known()[config.env.id]
    assert entry["env"] == defining(config)
    assert entry["std"] > 0
    assert random_return(config) == entry["mean"]


def test_other_settings_are_measured():
    config = parse(composed("env=cartpole", "env.max_t=5"))
    assert random_return(config) == 5  # nobody drops the pole so soon
    assert known()[config.env.id]["mean"] > 20
    assert known()[config.env.id]["games"] == GAMES
