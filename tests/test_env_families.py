"""Every environment that can be chosen by name: that it composes, selects its family, and steps."""

from __future__ import annotations

import ale_py
import gymnasium
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from rlhydra.choices import check_choices
from rlhydra.composition import CONF, register
from rlhydra.config import parse
from rlhydra.env.environment import Environment
from rlhydra.env.shipped import UNPLAYABLE, game_name, games
from rlhydra.schema import ConfigError
from rlhydra.targets import target_class
from tests.conftest import composed

FAMILIES = {
    "classic": {
        "acrobot", "cartpole", "masked_cartpole", "mountain_car", "mountain_car_continuous",
        "pendulum",
    },
    "box2d": {
        "bipedal_walker", "bipedal_walker_hardcore", "car_racing", "lunarlander",
        "lunarlander_continuous",
    },
    "mujoco": {
        "ant", "halfcheetah", "hopper", "humanoid", "humanoid_standup", "inverted_double_pendulum",
        "inverted_pendulum", "pusher", "reacher", "swimmer", "walker2d",
    },
    "atari": set(games()),
}  # fmt: skip
FREQUENCIES = {"classic": 500, "box2d": 1000, "mujoco": 10_000, "atari": 10_000}
NAMES = [(name, family) for family, names in FAMILIES.items() for name in sorted(names)]


gymnasium.register_envs(ale_py)


def test_all_files_and_all_games_belong_to_a_family():
    files = {path.stem for path in (CONF / "env").glob("*.yaml")}
    assert files | set(games()) == set().union(*FAMILIES.values()) | {"gym"}
    assert {f"ALE/{game_name(name)}-v5" for name in games()} == {
        id for id in gymnasium.registry if id.startswith("ALE/")
    }
    assert len(games()) + len(UNPLAYABLE) == 108
    assert len(FAMILIES["mujoco"]) == 11


@pytest.mark.parametrize(
    "names",
    [
        # The games differ by their names alone, and 130 compositions take 15 s.
        [(n, f) for n, f in NAMES if f != "atari" or n in ("pong", "ms_pacman", "tic_tac_toe_3d")],
        pytest.param(NAMES, marks=pytest.mark.slow),
    ],
    ids=["some games", "all"],
)
def test_every_name_composes_with_its_family(names):
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for name, family in names:
            config = parse(compose("config", [f"env={name}"]))
            meta = config.meta
            assert (meta.log_frequency, meta.eval_frequency) == (FREQUENCIES[family],) * 2, name
            assert (meta.max_session, meta.max_trial) == (4, 1), name
            kind = "atari" if family == "atari" else "gym"
            assert config.env_target.startswith(f"rlhydra.env.{kind}."), name


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_name_steps(family):
    for name in sorted(FAMILIES[family]):
        config = parse(composed(f"env={name}"))
        env = target_class(config.env_target, Environment)(config.env, 2, np.random.SeedSequence(0))
        spaces = env.spaces(config.env)
        assert spaces == (env.obs_space, env.action_space), name
        obs = env.reset()
        for _ in range(12):
            assert obs.shape == (2, *env.obs_space.shape), name
            assert obs.dtype == env.obs_space.dtype, name
            _, obs = env.step(np.stack([env.action_space.sample() for _ in range(2)]))
        env.close()


def test_a_game_may_have_sticky_actions_or_not_and_lives_or_whole_games():
    env = composed("env=ms_pacman", "env.sticky=0", "env.full_game=true").env
    assert (env.id, env.sticky, env.full_game) == ("ALE/MsPacman-v5", 0, True)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("env=pnog", r"env: there is no choice pnog \(did you mean pong\?\)"),
        ("env=mspacman", "did you mean ms_pacman"),
        ("env=lunar_lander", "did you mean lunarlander"),
        ("env=zzz", r"there is no choice zzz; --help lists the 12\d there are"),
        ("env=cartpole,pong,breakot", r"there is no choice breakot \(did you mean breakout\?\)"),
        ("env=choice(pong,'akrobot')", r"did you mean acrobot"),
        ("meta=[atari,ahsa]", r"meta: there is no choice ahsa \(did you mean asha\?\)"),
        ("meta=fast", "; there are asha, atari, box2d, classic, dev, mujoco, standard"),
        ("agent=pop", r"did you mean ppo\?"),
    ],
)
def test_a_wrong_choice_ends_in_one_line(argument, message):
    register()
    with pytest.raises(ConfigError, match=message) as raised:
        check_choices(["--multirun", argument], CONF)
    assert "\n" not in str(raised.value)


def test_right_choices_and_what_is_hydras_own_pass(tmp_path):
    register()
    check_choices(
        ["-m", "env=pong,cartpole", "meta=[atari,asha]", "experiment=null", "agent.lr=1e-3",
         "+agent.lr={start: 1, end: 0}", "~env", "evn=pong", "agent.lr=1e-3=2", "env=glob(p*)",
         "hydra/launcher=ray", "env.id=a:B-v0", "seed=range(1,4)"],
        CONF,
    )  # fmt: skip
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "mine.yaml").touch()
    check_choices(["--config-dir", str(tmp_path), "env=mine"], CONF)
    check_choices([f"--config-dir={tmp_path}", "env=mine"], CONF)
    check_choices(["hydra.searchpath=[pkg://theirs]", "env=theirs"], CONF)


@pytest.mark.parametrize("name", ["env/cartpole.yaml", "tuned/ppo_classic.yaml", "env/pong.yaml"])
def test_a_file_of_the_users_that_ours_would_hide_is_refused(name, tmp_path):
    register()
    path = tmp_path / name
    path.parent.mkdir()
    path.touch()
    with pytest.raises(ConfigError, match=f"{name}: rlhydra has its own {name}"):
        check_choices(["-cd", str(tmp_path), "env=acrobot"], CONF)
