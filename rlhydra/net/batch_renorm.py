"""Batch renormalisation (Ioffe, 2017, https://arxiv.org/abs/1702.03275)."""

from __future__ import annotations

import dataclasses

import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from rlhydra.config import NetConfig
from rlhydra.net.trunk import ACTIVATIONS, Network, feature_size, network, orthogonal


class BatchRenorm(nn.Module):
    """Normalises each feature by its batch in training, by running statistics in evaluation.

    In training (algorithm 1) y = γ ((x - μ_B) / σ_B · r + d) + β, with the corrections
    r = clip(σ_B / σ, 1 / r_max, r_max) and d = clip((μ_B - μ) / σ, -d_max, d_max), constants to the
    gradient, which make it what evaluation will compute. Until `warmup` batches were seen they are
    1 and 0: plain batch normalisation. Deviation: the limits do not grow gradually from there.

    Inputs are (B, width), or (members, B, width) of an ensemble.
    """

    R_MAX = 3.0
    D_MAX = 5.0
    EPSILON = 1e-3

    mean: Tensor
    variance: Tensor
    seen: Tensor

    def __init__(self, members: int | None, width: int, momentum: float, warmup: int) -> None:
        super().__init__()
        shape = (width,) if members is None else (members, 1, width)
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))
        self.momentum = momentum  # share of a new batch in the running statistics
        self.warmup = warmup
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` normalised; in training, move the running statistics."""
        if not self.training:
            scale = self.weight * torch.rsqrt(self.variance + self.EPSILON)
            return torch.addcmul(self.bias - self.mean * scale, x, scale)
        if x.ndim == 2:
            return self._train(x)
        # Members side by side are more features of one batch: several times faster than a loop, or
        # than reducing the middle axis.
        n, size, width = x.shape
        y = self._train(x.transpose(0, 1).reshape(size, n * width))
        return y.view(size, n, width).transpose(0, 1)

    def _train(self, x: Tensor) -> Tensor:
        """Normalise (B, features) by the batch."""
        warm = int(self.seen) < self.warmup
        weight, bias = self.weight.view(-1), self.bias.view(-1)
        y, mean, inverse = torch.native_batch_norm(
            x, weight if warm else None, bias if warm else None, None, None, True, 0, self.EPSILON
        )
        with torch.no_grad():
            mean = mean.view(self.mean.shape)
            variance = inverse.view(self.mean.shape).pow(-2) - self.EPSILON
            r, d = (None, None) if warm else self._corrections(mean, variance)
            self.mean.lerp_(mean, self.momentum)
            self.variance.lerp_(variance, self.momentum)
            self.seen += 1
        if r is None or d is None:
            return y
        return torch.addcmul(torch.addcmul(bias, weight, d.view(-1)), y, weight * r.view(-1))

    def _corrections(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        inverse = torch.rsqrt(self.variance + self.EPSILON)
        r = torch.sqrt(variance + self.EPSILON) * inverse
        d = (mean - self.mean) * inverse
        return r.clamp_(1 / self.R_MAX, self.R_MAX), d.clamp_(-self.D_MAX, self.D_MAX)


def renormed_network(
    cfg: NetConfig, obs_space: Box, outputs: int, momentum: float, warmup: int
) -> Network:
    """Return the network from observations to `outputs` numbers, its perceptron renormalised.

    The normalisation stands before the first linear layer and after each activation.
    """
    bare = dataclasses.replace(cfg, hidden=())
    width = feature_size(bare, obs_space)
    layers: list[nn.Module] = [*network(bare, obs_space, None)]
    layers.append(BatchRenorm(None, width, momentum, warmup))
    for after in cfg.hidden:
        layers += [nn.Linear(width, after), ACTIVATIONS[cfg.activation]()]
        layers.append(BatchRenorm(None, after, momentum, warmup))
        width = after
    net = Network(*layers, nn.Linear(width, outputs))
    if cfg.init == "orthogonal":
        orthogonal(net, 0.01)
    return net
