"""Action distributions as pure functions of a policy network's output.

`torch.distributions` checks and wraps at each call, which doubles the time of choosing an action
for a small network; the formulas are short.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from gymnasium import Space
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor, nn

LOG_TWO_PI = math.log(2 * math.pi)


class Head(Protocol):
    """A family of distributions over actions; `output` is (B, size), an action (B, ...)."""

    size: int
    action_shape: tuple[int, ...]
    action_dtype: torch.dtype

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Draw an action for each row."""
        ...

    def mode(self, output: Tensor) -> Tensor:
        """Return the likeliest action for each row."""
        ...

    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """Return each action's log-probability (B,)."""
        ...

    def entropy(self, output: Tensor) -> Tensor:
        """Return each distribution's entropy (B,), in nats."""
        ...


class Categorical:
    """One choice among n; the output is its logits."""

    def __init__(self, n: int) -> None:
        self.size = n
        self.action_shape: tuple[int, ...] = ()
        self.action_dtype = torch.int64

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Draw by the Gumbel-max trick."""
        return _gumbel(output, generator).argmax(-1)

    def mode(self, output: Tensor) -> Tensor:
        """Return the likeliest choice."""
        return output.argmax(-1)

    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """Return log p(a)."""
        return -F.cross_entropy(output, action, reduction="none")

    def entropy(self, output: Tensor) -> Tensor:
        """Return -Σ p log p."""
        log_probs = output.log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)


class MultiCategorical:
    """Independent choices; the output is their logits side by side."""

    def __init__(self, choices: Sequence[int]) -> None:
        self._parts = [Categorical(int(n)) for n in choices]
        self._sizes = [part.size for part in self._parts]
        self.size = sum(self._sizes)
        self.action_shape = (len(self._parts),)
        self.action_dtype = torch.int64

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Draw each choice by the Gumbel-max trick."""
        return self.mode(_gumbel(output, generator))

    def mode(self, output: Tensor) -> Tensor:
        """Return the likeliest choices."""
        return torch.stack([piece.argmax(-1) for piece in output.split(self._sizes, -1)], -1)

    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """Return the sum over the choices."""
        pieces = zip(self._parts, output.split(self._sizes, -1), action.unbind(-1), strict=True)
        terms = [part.log_prob(piece, choice) for part, piece, choice in pieces]
        return torch.stack(terms).sum(0)

    def entropy(self, output: Tensor) -> Tensor:
        """Return the sum over the choices."""
        pieces = zip(self._parts, output.split(self._sizes, -1), strict=True)
        return torch.stack([part.entropy(piece) for part, piece in pieces]).sum(0)


class DiagonalGaussian(nn.Module):
    """Independent normals; the output is their means, the log-deviations are parameters."""

    def __init__(self, dimensions: int, initial_std: float = 1.0) -> None:
        super().__init__()
        self.size = dimensions
        self.action_shape = (dimensions,)
        self.action_dtype = torch.float32
        self.log_std = nn.Parameter(torch.full((dimensions,), math.log(initial_std)))

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Draw by shifting and scaling standard normals."""
        noise = torch.empty_like(output).normal_(generator=generator)
        return output + self.log_std.exp() * noise

    def mode(self, output: Tensor) -> Tensor:
        """Return the means."""
        return output

    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """Return Σ log N(a; μ, σ)."""
        z = (action - output) * (-self.log_std).exp()
        constant = self.log_std.sum() + 0.5 * self.size * LOG_TWO_PI
        return -0.5 * z.square().sum(-1) - constant

    def entropy(self, output: Tensor) -> Tensor:
        """Return Σ log σ + ½ log 2πe, the same in every state."""
        return (self.log_std.sum() + 0.5 * self.size * (1 + LOG_TWO_PI)).expand(len(output))


def _gumbel(output: Tensor, generator: torch.Generator) -> Tensor:
    """Return logits + standard Gumbel noise, -log E with E ~ Exp(1): the argmax is a sample."""
    return output - torch.empty_like(output).exponential_(generator=generator).log_()


def head_for(space: Space[Any], initial_std: float = 1.0) -> Head:
    """Return the family that suits an action space; a Gaussian begins with `initial_std`."""
    if isinstance(space, Discrete):
        return Categorical(int(space.n))
    if isinstance(space, MultiDiscrete):
        return MultiCategorical(space.nvec.tolist())
    assert isinstance(space, Box)
    return DiagonalGaussian(space.shape[0], initial_std)
