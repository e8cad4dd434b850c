"""What is said of environments that do not exist, cannot be used, or break."""

from __future__ import annotations

import os
import pickle
import signal
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, Sequence

from rlhydra.env.environment import BrokenEnvironmentError
from rlhydra.env.gym import GymEnvironment
from rlhydra.schema import ConfigError
from tests.test_env_stream import actions, gym

BROKEN = "tests.environments:Broken-v0"
FIXED = "tests.environments:Fixed-v0"
LAST = np.array([0, 0, 1])  # only the last of three copies breaks, in its third step

FAULTS = {
    "raise": r"copy 2: step raised ValueError: the motor is on fire \(environments\.py, line \d+\)",
    "nan": r"copy 2: the observation after action 1 is not finite: \[ 0\.  0\. nan  0\.\]",
    "shape": r"copy 2: expected observations of shape \(4,\), got .* of shape \(5,\)",
    "scalar": r"copy 2: expected observations of shape \(4,\), got np\.float32\(0\.5\) of shape",
    "none": r"copy 2: expected observations of shape \(4,\), got None",
    "text": r"copy 2: expected observations of shape \(4,\), got \['a', 'b', 'c', 'd'\]",
    "reward": r"copy 2: expected a finite number as reward, got nan after action 1",
    "rewards": r"copy 2: expected a finite number as reward, got \[1\. 1\.\] after action 1",
    "old": r"copy 2: expected step to return \(obs, .* info\), got \(array\(\[0\.",
}


def play(env: GymEnvironment, steps: int = 3) -> None:
    env.reset()
    for _ in range(steps):
        env.step(LAST)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_copy_is_named_with_what_it_did(fault):
    env = gym(BROKEN, 3, kwargs={"fault": fault})
    with pytest.raises(BrokenEnvironmentError, match=FAULTS[fault]) as raised:
        play(env)
    assert str(raised.value).startswith(f"environment {BROKEN}, copy 2: ")
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    env.close()


@pytest.mark.parametrize("fault", ["raise", "nan", "shape", "rewards"])
def test_a_broken_copy_is_named_also_in_a_process(fault):
    env = gym(BROKEN, 3, kwargs={"fault": fault}, vectorisation="async")
    try:
        with pytest.raises(BrokenEnvironmentError, match="copy 2: "):
            play(env)
    finally:
        env.close()


def test_a_dead_process_is_named():
    env = gym(BROKEN, 2, vectorisation="async")
    env.reset()
    copies: Any = env._copies
    os.kill(copies._vector.processes[1].pid, signal.SIGKILL)
    with pytest.raises(BrokenEnvironmentError, match=r"copy 1: its process died"):
        play(env)
    env.close()


def test_a_reset_that_raises_is_named():
    env = gym(BROKEN, 2, kwargs={"fault": "reset"})
    with pytest.raises(BrokenEnvironmentError, match=r"copy 0: reset raised KeyError: 'level'"):
        env.reset()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"id": "CartPol-v1"}, r"CartPol-v1 cannot be made: .*Did you mean: `CartPole`"),
        ({"id": "CartPole-v7"}, r"CartPole-v7 cannot be made: .*v7"),
        ({"id": "no_such_package:Env-v0"}, r"cannot be made: .*no_such_package"),
        ({"id": BROKEN, "kwargs": {"fault": "constructor"}}, r"RuntimeError: no licence found"),
        ({"id": BROKEN, "kwargs": {"colour": 1}}, r"unexpected keyword argument 'colour'"),
    ],
)
def test_what_cannot_be_made_says_why_in_one_line(settings, message):
    with pytest.raises(ConfigError, match=message) as raised:
        gym(**settings)
    assert str(raised.value).startswith("env.id: ")
    assert "\n" not in str(raised.value)


VECTOR = Box(-1, 1, (2,), np.float32)
NODES = Graph(Box(-1, 1, (2,)), None)


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        ((Sequence(VECTOR), Discrete(2)), "observations of Sequence"),
        ((NODES, Discrete(2)), "observations of Graph"),
        ((VECTOR, Dict({"a": Discrete(2)})), "actions of Dict.*expected Discrete, MultiDiscrete"),
        ((VECTOR, Box(-1, 1, (2, 2))), r"actions of Box.*expected Discrete"),
        ((VECTOR, MultiBinary(3)), r"actions of MultiBinary.*expected Discrete"),
    ],
)
def test_spaces_that_no_agent_can_use_are_refused(spaces, message):
    kwargs = dict(zip(("observation_space", "action_space"), spaces, strict=True))
    with pytest.raises(ConfigError, match=message):
        gym(FIXED, kwargs=kwargs)


BYTES = {"low": 0, "high": 255, "dtype": np.uint8}


@pytest.mark.parametrize(
    ("space", "shape", "dtype"),
    [
        (Box(-1, 1, (3,), np.float64), (3,), np.float32),
        (Box(-1, 1, (2, 3), np.float32), (6,), np.float32),
        (Box(0, 255, (128,), np.uint8), (128,), np.float32),
        (Box(shape=(64, 48, 3), **BYTES), (3, 64, 48), np.uint8),
        (Box(shape=(64, 48), **BYTES), (1, 64, 48), np.uint8),
        (Box(shape=(4, 84, 84), **BYTES), (4, 84, 84), np.uint8),
        (Box(0, 1, (40, 40, 1), np.float32), (1, 40, 40), np.float32),
        (Discrete(5), (5,), np.float32),
        (MultiDiscrete([2, 3]), (5,), np.float32),
        (Dict({"a": Discrete(2), "b": VECTOR}), (4,), np.float32),
    ],
)
def test_observations_become_a_vector_or_an_image(space, shape, dtype):
    env = gym(FIXED, 2, kwargs={"observation_space": space, "action_space": Discrete(2)})
    obs = env.reset()
    transition, _ = env.step(np.array([0, 1]))
    assert (env.obs_space.shape, env.obs_space.dtype) == (shape, dtype)
    for array in (obs, transition.next_obs):
        assert (array.shape, array.dtype) == ((2, *shape), dtype)
        assert all(env.obs_space.contains(row) for row in array)


@pytest.mark.parametrize(
    ("space", "given", "native"),
    [
        (Discrete(3, start=5), [0, 2], [5, 7]),
        (MultiDiscrete([2, 3]), [[0, 2], [1, 1]], [[0, 2], [1, 1]]),
        (Box(np.float32([-2, 0]), np.float32([2, 8])), [[-1, 0], [0.5, 3]], [[-2, 4], [1, 8]]),
    ],
)
def test_actions_are_turned_into_the_environments_own(space, given, native):
    env = gym(FIXED, 2, kwargs={"observation_space": VECTOR, "action_space": space})
    env.reset()
    env.step(np.array(given, env.action_space.dtype))
    copies: Any = env._copies
    seen = [copy.unwrapped.actions[0] for copy in copies._copies]
    assert np.array_equal(seen, native)


def test_nothing_is_said_where_nothing_is_wrong(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MuJoCo would leave its log
    for name in ("HalfCheetah-v5", "LunarLander-v3"):
        env = gym(name, 1)
        env.reset()
        env.step(actions(env, 1)[0])
        env.close()
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert not list(tmp_path.iterdir())
