"""Running statistics that normalise observations and rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Moments:
    """Mean and variance of a stream of arrays, updated in batches (Chan et al., 1979)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean = np.zeros(shape, np.float64)
        self.variance = np.ones(shape, np.float64)
        self.count = 0
        self._common: Tensor | None = None
        self._prepare()

    def add(self, batch: NDArray[Any]) -> None:
        """Take in `batch` (B, *shape), unless it is not finite: others may go on with the rest."""
        if self._common is not None:
            self._take(self._common)
        size = len(batch)
        delta = batch.mean(0, dtype=np.float64) - self.mean
        if not np.isfinite(delta).all():
            return
        total = self.count + size
        squares = self.variance * self.count + batch.var(0, dtype=np.float64) * size
        self.variance = (squares + np.square(delta) * (self.count * size / total)) / total
        self.mean = self.mean + delta * (size / total)
        self.count = total
        self._prepare()
        if self._common is not None:
            self._common.copy_(self.shared()[0])  # of two batches at once one may be lost

    def shared(self) -> list[Tensor]:
        """Return the statistics as one vector."""
        parts = [np.array([self.count]), self.mean.reshape(-1), self.variance.reshape(-1)]
        return [torch.from_numpy(np.concatenate(parts))]

    def share(self, tensors: Sequence[Tensor], *, live: bool) -> None:
        """Go on with statistics that others add to as well; they are looked at with each batch."""
        (self._common,) = tensors
        self._take(self._common)

    def _take(self, common: Tensor) -> None:
        count, rest = common[0], common[1:].numpy().copy()
        self.count = int(count)
        self.mean, self.variance = rest.reshape(2, *self.mean.shape)
        self._prepare()

    def normalise(self, batch: NDArray[Any], limit: float = 10.0) -> NDArray[np.float32]:
        """Return (batch - mean) / deviation, clipped to [-limit, limit]."""
        scaled = (batch - self._shift) * self._scale
        return np.clip(scaled, -limit, limit, out=scaled)

    def _prepare(self) -> None:
        self._shift = self.mean.astype(np.float32)
        self._scale = (1 / np.sqrt(self.variance + 1e-8)).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """Return what `load` needs."""
        return {"mean": self.mean, "variance": self.variance, "count": self.count}

    def load(self, state: dict[str, Any]) -> None:
        """Take over the statistics of `state`."""
        self.mean, self.variance = np.array(state["mean"]), np.array(state["variance"])
        self.count = int(state["count"])
        self._prepare()


class RewardScaler:
    """Divides rewards by the running deviation of the discounted return (Engstrom et al., 2020)."""

    def __init__(self, num_envs: int, gamma: float) -> None:
        self._gamma = gamma
        self._returns = np.zeros(num_envs, np.float64)
        self._moments = Moments(())

    def __call__(self, reward: NDArray[Any], ended: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Take in the rewards (T, N) of T vector steps, and return them scaled."""
        returns = np.empty(reward.shape, np.float64)
        running = self._returns
        for t in range(len(reward)):
            returns[t] = running * self._gamma + reward[t]
            running = returns[t] * ~ended[t]
        self._returns = running
        self._moments.add(returns.reshape(-1))
        scaled = reward / np.sqrt(self._moments.variance + 1e-8)
        return np.clip(scaled, -10.0, 10.0).astype(np.float32)

    def cut(self) -> None:
        """Let the next rewards begin new episodes."""
        self._returns = np.zeros_like(self._returns)

    def shared(self) -> list[Tensor]:
        """Return the statistics of the discounted return."""
        return self._moments.shared()

    def share(self, tensors: Sequence[Tensor], *, live: bool) -> None:
        """Go on with statistics that others add to as well."""
        self._moments.share(tensors, live=live)

    def state(self) -> dict[str, Any]:
        """Return what `load` needs."""
        return {"returns": self._returns, "moments": self._moments.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over the statistics of `state`."""
        self._returns = np.array(state["returns"])
        self._moments.load(state["moments"])
