"""Policy and value function, on one trunk or on one each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from gymnasium import Space
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor, nn

from rlhydra.config import NetConfig
from rlhydra.net.head import head_for
from rlhydra.net.perceptron import Perceptron
from rlhydra.net.trunk import Network, feature_size, network, orthogonal


class ActorCritic(nn.Module):
    """A policy's outputs, to be read by its `head`, and state values."""

    def __init__(
        self, cfg: NetConfig, obs_space: Box, action_space: Space[Any], initial_std: float = 1.0
    ) -> None:
        super().__init__()
        self.head = head_for(action_space, initial_std)
        self.trunk = network(cfg, obs_space, None) if cfg.shared else None
        if self.trunk is None:
            self.actor = network(cfg, obs_space, self.head.size, 0.01)
            self.critic = network(cfg, obs_space, 1, 1.0)
        else:
            width = feature_size(cfg, obs_space)
            self.actor = Network(nn.Linear(width, self.head.size))
            self.critic = Network(nn.Linear(width, 1))
            if cfg.init == "orthogonal":
                orthogonal(self.actor, 0.01)
                orthogonal(self.critic, 1.0)
        self._quick: Perceptron | Literal[False] | None = None

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the policy's outputs (B, ...) and the values (B,)."""
        features = obs if self.trunk is None else self.trunk(obs)
        return self.actor(features), self.critic(features).squeeze(-1)

    def policy(self, obs: Tensor) -> Tensor:
        """Return the policy's outputs alone."""
        return self.actor(obs if self.trunk is None else self.trunk(obs))

    def acting(self, obs: NDArray[Any]) -> Tensor:
        """Return the policy's outputs alone, without a gradient, by the quickest way there is."""
        if self._quick is None:  # only now is it known where the parameters lie
            fits = self.trunk is None and Perceptron.fits(self.actor)
            self._quick = Perceptron(self.actor) if fits else False
        if self._quick:
            return torch.from_numpy(self._quick(obs))
        with torch.no_grad():
            return self.policy(torch.from_numpy(obs).to(next(self.parameters()).device))


def in_chunks(
    function: Callable[[Tensor], tuple[Tensor, ...]], obs: Tensor, size: int = 2048
) -> tuple[Tensor, ...]:
    """Apply `function` to a large batch piece by piece: images would need gigabytes at once."""
    with torch.no_grad():
        pieces = [function(chunk) for chunk in obs.split(size)]
    return tuple(torch.cat(piece) for piece in zip(*pieces, strict=True))
