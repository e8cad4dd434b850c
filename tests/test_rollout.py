"""Advantages against numbers worked out by hand and a slow reference; the rollout's bookkeeping."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlhydra.env.environment import Transition
from rlhydra.memory.rollout import Rollout, explained_variance, gae

CPU = torch.device("cpu")


def test_gae_by_hand() -> None:
    # γ = ½, λ = ½; one copy: δ = r + ½ V' - V, decay ¼.
    rewards = np.array([[1.0], [2.0], [4.0]], np.float32)
    values = np.array([[2.0], [4.0], [8.0]], np.float32)
    next_values = np.array([[4.0], [8.0], [16.0]], np.float32)
    no = np.zeros((3, 1), np.bool_)
    # δ = 1 + 2 - 2 = 1, 2 + 4 - 4 = 2, 4 + 8 - 8 = 4
    running = gae(rewards, values, next_values, no, no, 0.5, 0.5)
    assert running.ravel().tolist() == [1 + (2 + 4 / 4) / 4, 2 + 4 / 4, 4]
    middle = np.array([[False], [True], [False]])
    # Terminated at 1: δ₁ = 2 - 4, nothing flows back over it.
    terminated = gae(rewards, values, next_values, middle, middle, 0.5, 0.5)
    assert terminated.ravel().tolist() == [1 - 2 / 4, -2, 4]
    # Truncated at 1: the successor's value counts, the sum is cut all the same.
    truncated = gae(rewards, values, next_values, no, middle, 0.5, 0.5)
    assert truncated.ravel().tolist() == [1 + 2 / 4, 2, 4]


def test_gae_limits() -> None:
    """λ = 0 is the one-step error; λ = 1 the discounted return to the end, minus the value."""
    rng = np.random.default_rng(0)
    rewards, values, next_values = rng.normal(size=(3, 6, 2)).astype(np.float32)
    next_values[:-1] = values[1:]
    no = np.zeros((6, 2), np.bool_)
    one_step = gae(rewards, values, next_values, no, no, 0.9, 0.0)
    np.testing.assert_allclose(one_step, rewards + 0.9 * next_values - values, rtol=1e-6)
    returns = next_values[-1].astype(np.float64)
    for t in range(5, -1, -1):
        returns = rewards[t] + 0.9 * returns
    full = gae(rewards, values, next_values, no, no, 0.9, 1.0)
    np.testing.assert_allclose(full[0], returns - values[0], rtol=1e-5)


def episodes_apart(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    terminated: np.ndarray,
    ended: np.ndarray,
    gamma: float,
    lam: float,
) -> np.ndarray:
    """Sum (γλ)ᵏ δₜ₊ₖ for each step of each copy by itself, up to its episode's end."""
    advantages = np.zeros(rewards.shape)
    for t, n in np.ndindex(*rewards.shape):
        for k in range(len(rewards) - t):
            after = 0.0 if terminated[t + k, n] else next_values[t + k, n]
            delta = rewards[t + k, n] + gamma * after - values[t + k, n]
            advantages[t, n] += (gamma * lam) ** k * delta
            if ended[t + k, n]:
                break
    return advantages


@pytest.mark.parametrize("seed", range(3))
def test_gae_against_a_slow_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rewards, values, next_values = rng.normal(size=(3, 20, 4)).astype(np.float32)
    terminated = rng.random((20, 4)) < 0.15
    ended = terminated | (rng.random((20, 4)) < 0.15)
    arguments = (rewards, values, next_values, terminated, ended, 0.97, 0.9)
    np.testing.assert_allclose(gae(*arguments), episodes_apart(*arguments), atol=1e-5)


def filled(horizon: int, num_envs: int, seed: int) -> tuple[Rollout, np.ndarray]:
    """Return a rollout of a random stream, and all its true successors (T, N)."""
    rng = np.random.default_rng(seed)
    rollout = Rollout(horizon, num_envs, (2,), torch.float32, (), torch.int64, CPU)
    obs = rng.normal(size=(num_envs, 2)).astype(np.float32)
    successors = np.zeros((horizon, num_envs, 2), np.float32)
    for t in range(horizon):
        terminated = rng.random(num_envs) < 0.2
        truncated = (rng.random(num_envs) < 0.2) & ~terminated
        successors[t] = rng.normal(size=(num_envs, 2))
        action = rng.integers(3, size=num_envs)
        reward = rng.normal(size=num_envs).astype(np.float32)
        rollout.add(Transition(obs, action, reward, successors[t], terminated, truncated))
        fresh = rng.normal(size=(num_envs, 2)).astype(np.float32)
        obs = np.where((terminated | truncated)[:, None], fresh, successors[t])
    return rollout, successors


@pytest.mark.parametrize("seed", range(3))
def test_truncated_steps_bootstrap_from_their_own_successor(seed: int) -> None:
    """A value function of the observation, V(s) = s₀, tells whose value was taken."""
    rollout, successors = filled(12, 5, seed)
    assert rollout.full
    values = rollout.obs[..., 0].numpy()
    cut_values = np.stack(rollout.cut_obs)[:, 0] if rollout.cut_at else None
    expected = episodes_apart(
        rollout.reward,
        values[:-1],
        successors[..., 0],
        rollout.terminated,
        rollout.ended,
        0.9,
        0.8,
    )
    advantages = rollout.advantages(values, cut_values, 0.9, 0.8)
    np.testing.assert_allclose(advantages, expected, atol=1e-5)


def test_saved_in_the_middle() -> None:
    whole, _ = filled(12, 3, 0)
    half, copy = filled(12, 3, 0)[0], Rollout(12, 3, (2,), torch.float32, (), torch.int64, CPU)
    half.size = 7
    kept = [i for i, (t, _) in enumerate(half.cut_at) if t < 7]
    half.cut_at = [half.cut_at[i] for i in kept]
    half.cut_obs = [half.cut_obs[i] for i in kept]
    copy.load(half.state())
    assert copy.size == 7
    assert torch.equal(copy.obs[:7], whole.obs[:7])
    assert torch.equal(copy.action[:7], whole.action[:7])
    assert np.array_equal(copy.reward[:7], whole.reward[:7])
    assert copy.cut_at == half.cut_at
    assert np.array_equal(copy.cut_obs, half.cut_obs)


def test_explained_variance() -> None:
    targets = np.array([[1.0, 2.0, 3.0]], np.float32)
    assert explained_variance(targets, targets) == 1
    assert explained_variance(np.zeros_like(targets), targets) == 0
    assert explained_variance(targets, np.ones_like(targets)) == 0
