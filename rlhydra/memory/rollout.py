"""The rollout: what an on-policy agent did since its last update, and the advantages in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlhydra.env.environment import Transition

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


def gae(
    rewards: Floats,
    values: Floats,
    next_values: Floats,
    terminated: Mask,
    ended: Mask,
    gamma: float,
    lam: float,
) -> Floats:
    """Return advantages Âₜ = δₜ + γλ Âₜ₊₁ (Schulman et al., 2016, eq. 16).

    δₜ = rₜ + γ V(sₜ₊₁) - V(sₜ). All arrays are (T, N). `next_values` are those of the true
    successors. `terminated` stops bootstrapping; `ended` (terminated or truncated) only the sum.
    """
    bootstrap = np.float32(gamma) * (~terminated).astype(np.float32)
    decay = np.float32(gamma * lam) * (~ended).astype(np.float32)
    advantages = (rewards + bootstrap * next_values - values).astype(np.float32, copy=False)
    for t in range(len(rewards) - 2, -1, -1):
        advantages[t] += decay[t] * advantages[t + 1]
    return advantages


def explained_variance(values: Floats, targets: Floats) -> float:
    """Return 1 - Var(target - value) / Var(target), or 0 where the targets do not vary."""
    variance = float(np.var(targets))
    return 1.0 - float(np.var(targets - values)) / variance if variance > 0 else 0.0


def rows(x: Tensor, index: Tensor) -> Tensor:
    """Return the rows of `x` (B, ...) at `index`; images keep their channels last in memory.

    `index_select` would put them first, and each network would have to move them back.
    """
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
    return x.index_select(0, index)


class Rollout:
    """T vector steps of N copies, in preallocated arrays that torch and numpy share."""

    def __init__(
        self,
        horizon: int,
        num_envs: int,
        obs_shape: tuple[int, ...],
        obs_dtype: torch.dtype,
        action_shape: tuple[int, ...],
        action_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Make room; `device` is where the steps are learned from, to be copied to with no wait."""
        pinned = device.type == "cuda"
        self.horizon = horizon
        self.size = 0
        # One row more than steps: the last holds the successors of the last step.
        self.obs = torch.zeros(
            (horizon + 1, num_envs, *obs_shape), dtype=obs_dtype, pin_memory=pinned
        )
        self.action = torch.zeros((horizon, num_envs, *action_shape), dtype=action_dtype)
        self._obs = self.obs.numpy()
        self._action = self.action.numpy()
        self.reward = np.zeros((horizon, num_envs), np.float32)
        self.terminated = np.zeros((horizon, num_envs), np.bool_)
        self.ended = np.zeros((horizon, num_envs), np.bool_)
        # Where an episode was truncated: (t, copy) and the successor, which no later row holds.
        self.cut_at: list[tuple[int, int]] = []
        self.cut_obs: list[NDArray[Any]] = []

    @property
    def full(self) -> bool:
        """Whether all T steps are there."""
        return self.size == self.horizon

    def add(self, transition: Transition) -> None:
        """Copy one vector step in."""
        t = self.size
        self._obs[t] = transition.obs
        self._action[t] = transition.action
        self.reward[t] = transition.reward
        self.terminated[t] = transition.terminated
        np.logical_or(transition.terminated, transition.truncated, out=self.ended[t])
        self.size += 1
        if self.full:
            self._obs[self.horizon] = transition.next_obs
        elif transition.truncated.any():
            for copy in np.flatnonzero(transition.truncated):
                self.cut_at.append((t, int(copy)))
                self.cut_obs.append(transition.next_obs[copy].copy())

    def clear(self) -> None:
        """Make room for the next T steps."""
        self.size = 0
        self.cut_at.clear()
        self.cut_obs.clear()

    def advantages(
        self, values: Floats, cut_values: Floats | None, gamma: float, lam: float
    ) -> Floats:
        """Return the full rollout's advantages (T, N).

        `values` (T + 1, N) are those of `obs`, `cut_values` those of `cut_obs`.
        """
        next_values = values[1:]
        if self.cut_at:
            next_values = next_values.copy()
            steps, copies = np.array(self.cut_at).T
            next_values[steps, copies] = cut_values
        return gae(self.reward, values[:-1], next_values, self.terminated, self.ended, gamma, lam)

    def state(self) -> dict[str, Any]:
        """Return the steps so far."""
        n = self.size
        return {
            "obs": self.obs[:n].clone(),
            "action": self.action[:n].clone(),
            "reward": self.reward[:n].copy(),
            "terminated": self.terminated[:n].copy(),
            "ended": self.ended[:n].copy(),
            "cut_at": [list(at) for at in self.cut_at],
            "cut_obs": np.stack(self.cut_obs) if self.cut_obs else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over the steps of `state`."""
        n = self.size = len(state["reward"])
        self.obs[:n] = state["obs"]
        self.action[:n] = state["action"]
        self.reward[:n] = state["reward"]
        self.terminated[:n] = state["terminated"]
        self.ended[:n] = state["ended"]
        self.cut_at = [(t, copy) for t, copy in state["cut_at"]]
        self.cut_obs = [] if state["cut_obs"] is None else list(state["cut_obs"])
