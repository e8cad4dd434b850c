"""Several action-value functions, evaluated in one pass."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from rlhydra.config import NetConfig
from rlhydra.net.trunk import ACTIVATIONS, feature_size, network


class EnsembleLinear(nn.Module):
    """Linear layers side by side, one for each member: (n, B, inputs) to (n, B, outputs).

    Of an input with fewer members the first ones' layers are used.
    """

    precision = torch.float32  # of the products; inputs, outputs and parameters are float32

    def __init__(self, members: int, inputs: int, outputs: int, gain: float | None) -> None:
        """Draw orthogonal weights of `gain`, or as `nn.Linear` does where that is None."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))
        bound = inputs**-0.5
        for weight, bias in zip(self.weight.data, self.bias.data, strict=True):
            if gain is None:
                weight.uniform_(-bound, bound)
                bias.uniform_(-bound, bound)
            else:
                nn.init.orthogonal_(weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        """Return each member's x W + b."""
        weight, bias = _first(self.weight, x.shape[0]), _first(self.bias, x.shape[0])
        if weight.shape[-1] == 1:  # a matrix times a column takes six times as long by bmm
            return (x * weight.transpose(1, 2)).sum(-1, keepdim=True) + bias
        if self.precision == torch.float32:
            return torch.baddbmm(bias, x, weight)
        factors = (tensor.to(self.precision) for tensor in (bias, x, weight))
        return torch.baddbmm(*factors).to(torch.float32)


class EnsembleNorm(nn.Module):
    """Layer normalisation with a scale and a shift for each member."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, width))
        self.bias = nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of (n, B, width)."""
        normal = nn.functional.layer_norm(x, x.shape[-1:])
        members = x.shape[0]
        return torch.addcmul(_first(self.bias, members), normal, _first(self.weight, members))


class Critics(nn.Module):
    """Action values Q₁(s, a) … Qₙ(s, a): of one action, or of all where they are discrete.

    Args:
        cfg: of a critic; `hidden` is not read.
        hidden: widths of the perceptron's layers.
        members: n.
        obs_space: of one copy.
        action_size: numbers that an action is joined to the features as, 0 for none.
        outputs: values a member returns.
        normaliser: of (members, width), put before the first layer and after each hidden one.
    """

    def __init__(
        self,
        cfg: NetConfig,
        hidden: tuple[int, ...],
        members: int,
        obs_space: Box,
        action_size: int,
        outputs: int,
        normaliser: Callable[[int, int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.members = members
        bare = dataclasses.replace(cfg, hidden=())
        is_image = len(obs_space.shape) == 3
        bodies = [network(bare, obs_space, None) for _ in range(members)] if is_image else []
        self.bodies = nn.ModuleList(bodies)
        width = feature_size(bare, obs_space) + action_size
        gain = 2**0.5 if cfg.init == "orthogonal" else None
        layers: list[nn.Module] = [] if normaliser is None else [normaliser(members, width)]
        for before, after in itertools.pairwise((width, *hidden)):
            layers.append(EnsembleLinear(members, before, after, gain))
            if cfg.layer_norm:
                layers.append(EnsembleNorm(members, after))
            layers.append(_activation(cfg))
            if normaliser is not None:
                layers.append(normaliser(members, after))
        last = hidden[-1] if hidden else width
        layers.append(EnsembleLinear(members, last, outputs, gain and 1.0))
        self.layers = nn.ModuleList(layers)

    def forward(self, obs: Tensor, action: Tensor | None, members: int | None = None) -> Tensor:
        """Return the values (n, B, outputs) of all, or the first `members`, critics."""
        n = members or self.members
        if len(self.bodies):
            x = torch.stack([body(obs) for body in self.bodies[:n]])  # type: ignore[union-attr]
            if action is not None:
                x = torch.cat([x, action.expand(n, -1, -1)], -1)
        else:
            x = obs if action is None else torch.cat([obs, action], -1)
            x = x.expand(n, -1, -1)
        for layer in self.layers:
            x = layer(x)
        return x


def _first(parameter: Tensor, members: int) -> Tensor:
    # The gradient of a slice is a copy, so there is none where all are meant.
    return parameter if members == parameter.shape[0] else parameter[:members]


def _activation(cfg: NetConfig) -> nn.Module:
    # Nothing before it keeps its output for the gradient, so it may be overwritten.
    return nn.ReLU(inplace=True) if cfg.activation == "relu" else ACTIVATIONS[cfg.activation]()


def taken(q: Tensor, action: Tensor) -> Tensor:
    """Return the values (n, B) of the actions (B,) out of those of all actions (n, B, A)."""
    return q.gather(-1, action.expand(len(q), -1).unsqueeze(-1)).squeeze(-1)


def follow(target: nn.Module, net: nn.Module, tau: float) -> None:
    """Move the parameters of `target` by the share `tau` of the way to those of `net`, in place."""
    with torch.no_grad():
        for old, new in zip(target.parameters(), net.parameters(), strict=True):
            old.lerp_(new, tau)
