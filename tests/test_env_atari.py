"""Atari games through the facade, compared with one plain emulator of the same seed and actions."""

from __future__ import annotations

from typing import Any

import ale_py
import numpy as np
import pytest
from ale_py import roms

from rlhydra.env.atari import AtariEnvironment, AtariEnvironmentConfig, rom
from rlhydra.env.environment import Game
from rlhydra.schema import ConfigError
from tests.test_env_stream import actions


def atari(
    game: str, num_envs: int = 2, seed: int = 0, *, training: bool = True, **settings: Any
) -> AtariEnvironment:
    values = {
        "kwargs": {}, "eval_kwargs": {}, "num_envs": num_envs, "max_frame": 1000, "max_t": None,
        "sticky": 0.25, "full_game": False, "full_actions": False, "reward": "sign",
        "frame_stack": 4, "noop_max": 30, **settings,
    }  # fmt: skip
    cfg = AtariEnvironmentConfig(id=f"ALE/{game}-v5", **values)
    return AtariEnvironment(cfg, num_envs, np.random.SeedSequence(seed), training=training)


class Plain:
    """One emulator; what a step of four frames is, is written here once more."""

    def __init__(self, game: str, seed: int, sticky: float) -> None:
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", sticky)
        self.ale.setInt("random_seed", seed)
        self.ale.loadROM(str(roms.get_rom_path(game)))
        self.actions = self.ale.getMinimalActionSet()
        self.fires = ale_py.Action.FIRE in self.actions

    def reset(self, frames: int) -> None:
        """Start a game as the vector does, which drew so many frames of doing nothing."""
        self.ale.reset_game()
        if self.fires:
            self.ale.act(ale_py.Action.FIRE)
        while self.ale.getEpisodeFrameNumber() < frames:
            self.ale.act(ale_py.Action.NOOP)

    def step(self, action: int) -> tuple[float, bool, bool]:
        """Return the reward, whether a life was lost, and whether the game is over."""
        lives, reward = self.ale.lives(), 0.0
        for _ in range(4):
            reward += self.ale.act(self.actions[action])
            if self.ale.game_over():
                break
        return reward, self.ale.lives() < lives, self.ale.game_over()


def compare_games(game: str, steps: int, *, games: int, **settings: Any) -> list[Game]:
    """Play the same in the facade and in plain emulators; return the finished games."""
    env = atari(game, **settings)
    limit = settings.get("max_t") or 27_000
    env.reset()
    name, sticky = rom(env_config(game)), settings.get("sticky", 0.25)
    plain = [Plain(name, seed, sticky) for seed in env.state()["seeds"]]
    for one, frames in zip(plain, env._frames, strict=True):
        one.reset(frames)
    scores, lengths, finished = [0.0] * len(plain), [0] * len(plain), []
    for action in actions(env, steps):
        transition, _ = env.step(action)
        expected: list[Game] = []
        for copy, one in enumerate(plain):
            reward, life_lost, over = one.step(int(action[copy]))
            scores[copy] += reward
            lengths[copy] += 1
            cut = lengths[copy] >= limit and not over
            split = life_lost and not settings.get("full_game") and settings.get("training", True)
            assert transition.terminated[copy] == (over or split)
            assert transition.truncated[copy] == (cut and not split)
            signed = settings.get("reward", "sign") == "sign" and settings.get("training", True)
            assert transition.reward[copy] == (np.sign(reward) if signed else reward)
            if over or cut:
                expected.append(Game(copy, scores[copy], lengths[copy]))
                scores[copy], lengths[copy] = 0.0, 0
                one.reset(int(env._frames[copy]))
        assert env.games == expected
        finished += expected
        if len(finished) >= games:
            break
    env.close()
    assert len(finished) >= games
    return finished


def env_config(game: str) -> AtariEnvironmentConfig:
    return AtariEnvironmentConfig(
        id=f"ALE/{game}-v5", kwargs={}, eval_kwargs={}, num_envs=1, max_frame=1, max_t=None,
        sticky=0, full_game=False, full_actions=False, reward="raw", frame_stack=4, noop_max=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("game", "settings"),
    [
        ("Breakout", {}),  # five lives
        ("Breakout", {"training": False, "sticky": 0.0}),
        ("SpaceInvaders", {"full_game": True, "reward": "raw"}),  # three lives, large rewards
        ("Pong", {"max_t": 150}),  # no lives; cut
        ("Breakout", {"max_t": 3}),  # a game of fewer frames than the no-ops of the next
    ],
)
def test_true_returns_are_those_of_a_plain_emulator(game, settings):
    compare_games(game, 2000, games=2, **settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("game", "settings", "low", "high"),
    [
        ("Pong", {}, -21, 21),  # no lives
        ("Tennis", {}, -24, 24),
        ("Freeway", {}, 0, 34),  # ends by its own clock
        ("Boxing", {}, -100, 100),
        ("Seaquest", {}, 0, 5000),  # lives, and lives won
        ("Qbert", {"full_game": True}, 0, 5000),
        ("MsPacman", {"reward": "raw"}, 0, 5000),
        ("SpaceInvaders", {"sticky": 0.0}, 0, 5000),
        ("MontezumaRevenge", {}, 0, 2500),  # hardly ever a reward
        ("Skiing", {}, -40_000, 0),  # negative, and all at the end
        ("Enduro", {"max_t": 500}, 0, 100),
        ("VideoPinball", {"training": False}, 0, 500_000),
        ("DoubleDunk", {}, -60, 60),
    ],
)
def test_true_returns_of_games_of_all_kinds(game, settings, low, high):
    for finished in compare_games(game, 30_000, games=3, **settings):
        assert low <= finished.true_return <= high


def test_the_stream_of_observations_is_continuous():
    env = atari("Breakout", 3, max_t=60)
    obs = env.reset()
    ends = lives = 0
    for action in actions(env, 200):
        before = obs
        transition, obs = env.step(action)
        over = np.zeros(3, np.bool_)
        over[[game.copy for game in env.games]] = True
        assert np.array_equal(transition.obs, before)
        # Three of the four stacked frames are those of before, also at the end of a game.
        assert np.array_equal(transition.next_obs[:, :3], before[:, 1:])
        assert np.array_equal(obs[~over], transition.next_obs[~over])
        # A new game begins with one frame.
        assert not obs[over, :3].any()
        assert obs[over, 3].any(axis=(1, 2)).all()
        assert not (transition.terminated & transition.truncated).any()
        ends += over.sum()
        lives += (transition.terminated & ~over).sum()
    assert ends > 0
    assert lives > 0
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("game", "published", "within"),
    [("Pong", -20.5, 0.6), ("Breakout", 1.5, 0.8), ("SpaceInvaders", 150, 40)],
)
def test_random_play_scores_as_published(game, published, within):
    env = atari(game, 8)
    env.reset()
    returns: list[float] = []
    for action in actions(env, 100_000):
        env.step(action)
        returns += [finished.true_return for finished in env.games]
        if len(returns) >= 60:
            break
    env.close()
    assert abs(np.mean(returns) - published) <= within


def test_a_game_that_does_not_exist_is_named_with_its_neighbours():
    with pytest.raises(
        ConfigError, match=r"env\.id: ale-py plays no game Pnog \(did you mean Pong"
    ):
        AtariEnvironment.spaces(env_config("Pnog"))


def test_actions_are_the_games_own_or_all_eighteen():
    for full, count in ((False, 4), (True, 18)):
        env = atari("Breakout", 1, full_actions=full)
        assert env.action_space.n == count
        env.close()


def test_an_argument_that_the_vector_does_not_take_is_named():
    with pytest.raises(ConfigError, match=r"env\.kwargs\.img_hight.*did you mean img_height"):
        atari("Pong", 1, kwargs={"img_hight": 64})
    env = atari("Pong", 1, kwargs={"img_height": 64, "img_width": 64})
    assert env.reset().shape == (1, 4, 64, 64)
    env.close()
