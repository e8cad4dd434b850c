"""What the facade hands out, compared with the same seeds and actions in one plain environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from rlhydra.env.environment import Environment
from rlhydra.env.gym import GymEnvironment, GymEnvironmentConfig

COUNTING = "tests.environments:Counting-v0"


def gym(
    id: str, num_envs: int = 3, seed: int = 0, *, training: bool = True, **settings: Any
) -> GymEnvironment:
    values = {
        "kwargs": {}, "eval_kwargs": {}, "num_envs": num_envs, "max_frame": 1000, "max_t": None,
        "reward_scale": 1.0, "vectorisation": "sync", "rebuild": False, **settings,
    }  # fmt: skip
    cfg = GymEnvironmentConfig(id=id, **values)
    return GymEnvironment(cfg, num_envs, np.random.SeedSequence(seed), training=training)


def actions(env: Environment, steps: int, seed: int = 0) -> list[np.ndarray]:
    """Return random vector actions, as an agent gives them."""
    space = env.action_space
    space.seed(seed)
    return [np.stack([space.sample() for _ in range(env.num_envs)]) for _ in range(steps)]


class Plain:
    """One copy without any vector: Gymnasium's own, its ends and restarts made by hand."""

    def __init__(self, env: GymEnvironment, copy: int, **make: Any) -> None:
        self.env = gymnasium.make(env.name, **make)
        self.box = isinstance(self.env.action_space, gymnasium.spaces.Box)
        self.obs, _ = self.env.reset(seed=env.state()["seeds"][copy])
        self.score = self.length = 0.0

    def native(self, action: Any) -> Any:
        if not self.box:
            return action
        space = self.env.action_space
        middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
        return np.clip(action * half + middle, space.low, space.high)

    def step(self, action: Any) -> tuple[Any, ...]:
        obs = self.obs
        self.obs, reward, terminated, truncated, _ = self.env.step(self.native(action))
        self.score += float(reward)
        self.length += 1
        game, next_obs = None, self.obs
        if terminated or truncated:
            game = (self.score, self.length)
            self.score = self.length = 0.0
            self.obs, _ = self.env.reset()
        return obs, next_obs, reward, terminated, truncated and not terminated, game


FIELDS = ("obs", "next_obs", "reward", "terminated", "truncated")
STREAMS = {
    "counting": (COUNTING, {}, {}),
    "counting cut": (COUNTING, {"max_t": 5}, {"max_episode_steps": 5}),
    "cartpole": ("CartPole-v1", {}, {}),
    "cartpole cut": ("CartPole-v1", {"max_t": 12}, {"max_episode_steps": 12}),
    "pendulum": ("Pendulum-v1", {}, {}),
    "lunar lander": ("LunarLander-v3", {"max_t": 90}, {"max_episode_steps": 90}),
    "swimmer": ("Swimmer-v5", {"max_t": 50}, {"max_episode_steps": 50}),
}


IN_LOOPS = [(name, "sync") for name in STREAMS]
IN_PROCESSES = [("counting cut", "async"), ("pendulum", "async")]


@pytest.mark.parametrize(("stream", "vectorisation"), IN_LOOPS + IN_PROCESSES)
def test_the_stream_is_that_of_a_plain_environment(stream, vectorisation):
    id, settings, make = STREAMS[stream]
    env = gym(id, **{"vectorisation": vectorisation, **settings})
    try:
        obs = env.reset()
        plain = [Plain(env, copy, **make) for copy in range(env.num_envs)]
        assert np.array_equal(obs, np.stack([one.obs for one in plain]).astype(np.float32))
        games = ends = cuts = 0
        for action in actions(env, 450):
            before = obs
            transition, obs = env.step(action)
            assert np.array_equal(transition.obs, before)
            expected = [one.step(a) for one, a in zip(plain, action, strict=True)]
            *arrays, finished = zip(*expected, strict=True)
            for name, values in zip(FIELDS, arrays, strict=True):
                got = getattr(transition, name)
                assert np.array_equal(got, np.array(values, got.dtype)), name
            assert np.array_equal(obs, np.stack([one.obs for one in plain]).astype(np.float32))
            scores = [(copy, *game) for copy, game in enumerate(finished) if game]
            assert [tuple(game) for game in env.games] == scores
            games += len(scores)
            ends += transition.terminated.sum()
            cuts += transition.truncated.sum()
        assert games == ends + cuts > 0
        assert (cuts > 0) == ("cut" in stream or stream in ("pendulum", "lunar lander", "swimmer"))
    finally:
        env.close()


def test_what_was_handed_out_is_never_written_again():
    env = gym("CartPole-v1")
    kept = [env.reset()]
    copies = [kept[0].copy()]
    for action in actions(env, 60):
        transition, obs = env.step(action)
        for array in (*transition, obs):
            kept.append(array)
            copies.append(array.copy())
    assert all(np.array_equal(one, other) for one, other in zip(kept, copies, strict=True))


def test_the_learner_sees_scaled_rewards_and_the_score_is_raw():
    env = gym(COUNTING, 2, reward_scale=0.1)
    env.reset()
    rewards, games = np.zeros(2), []
    for action in actions(env, 3):
        transition, _ = env.step(action)
        assert transition.reward.dtype == np.float32
        rewards += transition.reward
        games += env.games
    assert rewards == pytest.approx([0.6, 0.6])
    assert [game.true_return for game in games] == [6.0, 6.0]


def test_evaluation_environments_take_their_own_arguments_over_the_others():
    settings = {"kwargs": {"length": 4}, "eval_kwargs": {"length": 2}}
    for training, length in ((True, 4), (False, 2)):
        env = gym(COUNTING, 1, training=training, **settings)
        env.reset()
        games = [
            game.length for action in actions(env, 5) for game in (env.step(action), *env.games)[1:]
        ]
        assert games[0] == length


def test_running_games_are_told_as_they_stand():
    env = gym(COUNTING, 2)
    env.reset()
    for action in actions(env, 2):
        env.step(action)
    assert [tuple(game) for game in env.running()] == [(0, 3.0, 2), (1, 3.0, 2)]


def test_no_copy_session_base_seed_or_seeding_shares_a_stream():
    seen: set[int] = set()
    count = 0
    for base in range(4):
        for session in range(4):
            for branch in range(2):
                seed = np.random.SeedSequence((base, session), spawn_key=(branch,))
                env = gym(COUNTING, 8)
                for start in (seed, None, None):
                    env.reset(start)
                    seen.update(env.state()["seeds"])
                    count += 8
    assert len(seen) == count
    first = gym("CartPole-v1", 4, seed=1).reset()
    assert len({row.tobytes() for row in first}) == 4
    assert np.array_equal(first, gym("CartPole-v1", 4, seed=1).reset())
    assert not np.isin(first, gym("CartPole-v1", 4, seed=2).reset()).any()
