"""Policy and value function that remember: a recurrent layer between features and outputs."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import torch
from gymnasium import Space
from gymnasium.spaces import Box
from torch import Tensor, nn

from rlhydra.config import NetConfig
from rlhydra.net.head import head_for
from rlhydra.net.trunk import Network, feature_size, network, orthogonal

Kind = Literal["lstm", "gru"]


class Core(nn.Module):
    """Features of the observation, then an LSTM or GRU, then one linear layer."""

    def __init__(
        self, cfg: NetConfig, kind: Kind, size: int, obs_space: Box, outputs: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.body = network(cfg, obs_space, None)
        layer = nn.LSTM if kind == "lstm" else nn.GRU
        self.layer = layer(feature_size(cfg, obs_space), size)
        self.depth = 2 if kind == "lstm" else 1  # tensors of memory
        self.outputs = nn.ModuleList(Network(nn.Linear(size, width)) for width in outputs)
        if cfg.init == "orthogonal":
            for name, parameter in self.layer.named_parameters():
                if name.startswith("weight"):
                    nn.init.orthogonal_(parameter)
                else:
                    nn.init.zeros_(parameter)

    def forward(self, obs: Tensor, memory: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the outputs (T, B, ...) along sequences (T, B, ...), and the memory after them."""
        steps, copies = obs.shape[:2]
        features = self.body(obs.flatten(0, 1)).view(steps, copies, -1)
        before = memory.split(1) if self.depth == 2 else memory
        hidden, after = self.layer(features, before)
        return [output(hidden) for output in self.outputs], (
            torch.cat(after) if self.depth == 2 else after
        )


class RecurrentActorCritic(nn.Module):
    """A policy's outputs, to be read by its `head`, and values, on one core or on one each."""

    def __init__(
        self,
        cfg: NetConfig,
        kind: Kind,
        size: int,
        obs_space: Box,
        action_space: Space[Any],
        initial_std: float = 1.0,
    ) -> None:
        super().__init__()
        self.head = head_for(action_space, initial_std)
        widths = (self.head.size, 1)
        groups = (widths,) if cfg.shared else tuple((width,) for width in widths)
        self.cores = nn.ModuleList(Core(cfg, kind, size, obs_space, group) for group in groups)
        self.size = size
        self.depths = [core.depth for core in self._each()]
        if cfg.init == "orthogonal":
            layers = [layer for core in self._each() for layer in core.outputs]
            for layer, gain in zip(layers, (0.01, 1.0), strict=True):
                assert isinstance(layer, Network)
                orthogonal(layer, gain)

    def _each(self) -> list[Core]:
        return [core for core in self.cores if isinstance(core, Core)]

    def blank(self, copies: int) -> Tensor:
        """Return the memory (K, copies, size) at the start of an episode."""
        return torch.zeros(sum(self.depths), copies, self.size)

    def forward(self, obs: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return outputs (T, B, ...) and values (T, B) of sequences, and the memory after them."""
        results: list[Tensor] = []
        after: list[Tensor] = []
        for core, part in zip(self._each(), memory.split(self.depths), strict=True):
            outputs, remembered = core(obs, part)
            results += outputs
            after.append(remembered)
        return results[0], results[1].squeeze(-1), torch.cat(after)


def unroll(
    net: RecurrentActorCritic, obs: Tensor, memory: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """Run sequences (T, B, ...) in which episodes start where `starts` (T, B), with blank memory.

    Returns outputs (T, B, ...), values (T, B), and the memory before each step at which an episode
    starts in any sequence, as it was before it was blanked. Steps between those run as one.
    """
    edges = [0, *(starts[1:].any(1).nonzero().flatten() + 1).tolist(), len(obs)]
    outputs: list[Tensor] = []
    values: list[Tensor] = []
    memories: dict[int, Tensor] = {}
    for begin, end in itertools.pairwise(edges):
        memories[begin] = memory
        memory = memory * ~starts[begin].unsqueeze(-1)
        output, value, memory = net(obs[begin:end], memory)
        outputs.append(output)
        values.append(value)
    return torch.cat(outputs), torch.cat(values), memories
