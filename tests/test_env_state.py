"""Saved and restored: environments go on as if nothing had happened; any game plays again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlhydra.env.environment import Environment, Game, Recording
from rlhydra.env.gym import GymEnvironment
from rlhydra.env.history import History
from tests.test_env_atari import atari
from tests.test_env_stream import COUNTING, actions, gym

REPLAYING: dict[str, Callable[..., Environment]] = {
    "counting": lambda **k: gym(COUNTING, 3, **k),
    "cartpole": lambda **k: gym("CartPole-v1", 3, **k),
    "acrobot": lambda **k: gym("Acrobot-v1", 2, max_t=70, **k),
    "pendulum": lambda **k: gym("Pendulum-v1", 2, max_t=40, **k),
    "lunar lander": lambda **k: gym("LunarLander-v3", 3, **k),
    "bipedal walker": lambda **k: gym("BipedalWalker-v3", 2, max_t=70, rebuild=True, **k),
    "half cheetah": lambda **k: gym("HalfCheetah-v5", 2, max_t=45, **k),
    "hopper": lambda **k: gym("Hopper-v5", 3, **k),
    "breakout": lambda **k: atari("Breakout", 3, **k),
    "pong": lambda **k: atari("Pong", 2, max_t=60, full_game=True, **k),
}


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state as a checkpoint brings it back: arrays as arrays, all else through JSON."""
    history = state["history"]
    plain = {**state, "history": {**history, "actions": None}}
    back = json.loads(json.dumps(plain))
    back["history"]["actions"] = history["actions"].copy()
    return back


def follow(env: Environment, plan: list[np.ndarray]) -> tuple[list[np.ndarray], list[Game]]:
    """Play a plan; return all arrays that came out, and the games."""
    arrays: list[np.ndarray] = []
    games: list[Game] = []
    for action in plan:
        transition, obs = env.step(action)
        arrays += [*transition, obs]
        games += env.games
    return arrays, games


QUICK = [(kind, after) for after in (20, 10_000) for kind in REPLAYING if kind != "pong"]
LONG = [("breakout", 10_000), ("pong", 20), ("pong", 10_000)]


@pytest.mark.parametrize(
    ("kind", "reseed_after"),
    [
        pytest.param(*one, marks=pytest.mark.slow) if one in LONG else one
        for one in QUICK + LONG[1:]
    ],
)
def test_a_fresh_environment_goes_on_as_the_saved_one(kind, reseed_after, monkeypatch):
    make = REPLAYING[kind]
    original = make()
    monkeypatch.setattr(type(original), "RESEED_AFTER", reseed_after)
    steps = 150
    plan = actions(original, 2 * steps)
    original.reset()
    follow(original, plan[:steps])
    state = through_json(original.state())
    lengths = state["history"]["lengths"]
    assert (min(lengths) < steps) == (reseed_after == 20)
    expected, games = follow(original, plan[steps:])
    original.close()
    restored = make()
    obs, exact = restored.load(state)
    assert exact
    assert np.array_equal(obs, expected[0])
    arrays, same_games = follow(restored, plan[steps:])
    assert all(np.array_equal(one, other) for one, other in zip(arrays, expected, strict=True))
    assert same_games == games
    restored.close()


def test_copies_with_histories_of_unequal_lengths_end_together():
    env = gym(COUNTING, 4)
    env.reset()
    for copy in (1, 3):
        plan = actions(env, 5 + copy, seed=copy)
        follow(env, plan)
        env._obs = env._obs.copy()
        env._obs[[copy]] = env._restart([copy], env._fresh_seeds([copy]))
        env._returns[copy], env._started[copy] = 0, env._steps
    state = through_json(env.state())
    assert len(set(state["history"]["lengths"])) == 3
    plan = actions(env, 30, seed=9)
    again = gym(COUNTING, 4)
    assert again.load(state)[1]
    assert follow(again, plan)[1] == follow(env, plan)[1]


@pytest.mark.parametrize("what", ["digest", "returns", "lengths"])
def test_where_replaying_differs_new_games_start(what):
    settings: dict[str, Any] = {"max_t": 30}
    env = gym("BipedalWalker-v3", 2, **settings)
    plan = actions(env, 100)
    before = env.reset()
    follow(env, plan)
    state = through_json(env.state())
    state[what] = 1 if what == "digest" else [1, 1]
    again = gym("BipedalWalker-v3", 2, **settings)
    obs, exact = again.load(state)
    assert not exact
    assert not np.array_equal(obs, before)
    assert [tuple(game)[1:] for game in again.running()] == [(0.0, 0), (0.0, 0)]
    assert set(again.state()["seeds"]).isdisjoint(state["seeds"])
    follow(again, plan)


@pytest.mark.parametrize("kind", ["counting", "cartpole", "lunar lander", "breakout"])
def test_any_finished_game_plays_again_in_one_copy(kind, monkeypatch):
    env = REPLAYING[kind]()
    monkeypatch.setattr(type(env), "RESEED_AFTER", 100)
    env.reset()
    recorded: list[tuple[Game, Recording, bytes]] = []
    for action in actions(env, 400):
        transition, _ = env.step(action)
        for game in env.games:
            last = transition.next_obs[game.copy].tobytes()
            recorded.append((game, env.recording(game), last))
    env.close()
    assert recorded
    one = atari("Breakout", 1) if kind == "breakout" else gym(env.name, 1)
    for game, recording, last in (recorded[0], recorded[-1]):
        assert len(recording.actions) == recording.start + game.length
        one.rewind(recording)
        for action in recording.actions[recording.start :, None]:
            assert one.games == []
            transition, _ = one.step(action)
        assert [tuple(again)[1:] for again in one.games] == [tuple(game)[1:]]
        assert transition.next_obs[0].tobytes() == last
    one.close()


def test_a_history_keeps_what_the_copy_seeded_longest_ago_needs():
    env = gym(COUNTING, 2)
    history = History(2, env.action_space, capacity=4)
    added = [np.array([step % 5, (step + 1) % 5]) for step in range(23)]
    for step, action in enumerate(added):
        if step in (3, 9, 11, 20):
            history.forget([step % 2])
        if step == 5:
            history.forget([0])
        history.add(action)
    assert (history.length(0), history.length(1)) == (3, 12)
    assert np.array_equal(history.last(12), np.stack(added[-12:]))
    assert np.array_equal(history.of(1, 5), np.stack(added[-5:])[:, 1])
    other = History(2, env.action_space, capacity=4)
    other.load(history.state())
    assert np.array_equal(other.last(12), history.last(12))
    for action in added:
        other.add(action)
    assert np.array_equal(other.last(23), np.stack(added))


def test_the_state_does_not_change_with_the_environment():
    env = gym("CartPole-v1", 2)
    env.reset()
    follow(env, actions(env, 30))
    state = env.state()
    saved = through_json(state)
    follow(env, actions(env, 300))
    assert np.array_equal(state["history"].pop("actions"), saved["history"].pop("actions"))
    assert state == saved
    assert isinstance(env, GymEnvironment)
