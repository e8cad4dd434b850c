"""Action values, or their distributions, as functions of an observation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from rlhydra.config import NetConfig
from rlhydra.net.noisy import NoisyLinear
from rlhydra.net.trunk import Network, feature_size, mlp, network, orthogonal


class QNetwork(nn.Module):
    """Q(s, a) of all actions, (B, A); with `atoms` the logits of its distribution, (B, A, atoms).

    A `dueling` network has the last hidden layer twice, for V(s) and for the advantages (Wang et
    al., 2016). With `noisy`, the deviation σ₀ at the start, all dense layers have noise.
    """

    def __init__(
        self,
        cfg: NetConfig,
        obs_space: Box,
        actions: int,
        *,
        dueling: bool = False,
        noisy: float | None = None,
        atoms: int | None = None,
    ) -> None:
        super().__init__()
        self._shape = (actions,) if atoms is None else (actions, atoms)
        body = dataclasses.replace(cfg, hidden=())
        width = feature_size(body, obs_space)
        layers: list[nn.Module] = [*network(body, obs_space, None)]
        shared, own = (cfg.hidden[:-1], cfg.hidden[-1:]) if dueling else (cfg.hidden, ())
        layers += _dense(cfg, width, shared, None, noisy)
        width = shared[-1] if shared else width
        outputs = actions * (atoms or 1)
        self.value = None
        if dueling:
            self.trunk = Network(*layers)
            self.value = Network(*_dense(cfg, width, own, atoms or 1, noisy))
            self.advantage = Network(*_dense(cfg, width, own, outputs, noisy))
        else:
            self.trunk = Network(*layers, *_dense(cfg, width, (), outputs, noisy))
            self.advantage = None
        self._noisy = [layer for layer in self.modules() if isinstance(layer, NoisyLinear)]

    def forward(self, obs: Tensor) -> Tensor:
        """Return the values (B, A), or the logits (B, A, atoms)."""
        features = self.trunk(obs)
        if self.value is None or self.advantage is None:
            return features.view(-1, *self._shape) if len(self._shape) > 1 else features
        value = self.value(features).unsqueeze(1)  # (B, 1, 1 or atoms)
        advantage = self.advantage(features).view(len(features), self._shape[0], -1)
        return combine(value, advantage).view(-1, *self._shape)

    def draw_noise(self, generator: torch.Generator, rows: int = 1) -> None:
        """Draw the noise of all noisy layers, one for a batch or one for each of its `rows`."""
        for layer in self._noisy:
            layer.draw_noise(generator, rows)

    def drop_noise(self) -> None:
        """Let all noisy layers use their means alone."""
        for layer in self._noisy:
            layer.drop_noise()


def combine(value: Tensor, advantage: Tensor) -> Tensor:
    """Return Q = V + A - mean A over the actions, axis 1 (Wang et al., 2016, eq. 9)."""
    return value + advantage - advantage.mean(1, keepdim=True)


def _dense(
    cfg: NetConfig, inputs: int, hidden: Sequence[int], outputs: int | None, noisy: float | None
) -> list[nn.Module]:
    layers = mlp(inputs, hidden, cfg.activation, cfg.layer_norm)
    if outputs is not None:
        layers.append(nn.Linear(hidden[-1] if hidden else inputs, outputs))
    if noisy is None:
        if cfg.init == "orthogonal":
            orthogonal(nn.Sequential(*layers), 2**0.5 if outputs is None else 1.0)
        return layers
    return [  # whose initialisation is the paper's
        NoisyLinear(layer.in_features, layer.out_features, noisy)
        if isinstance(layer, nn.Linear)
        else layer
        for layer in layers
    ]
