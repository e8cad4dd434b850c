"""Stochastic policies through which an expected value can be differentiated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from gymnasium import Space
from gymnasium.spaces import Discrete
from torch import Tensor, nn

LOG_STD_RANGE = (-20.0, 2.0)
LOG_TWO, LOG_TWO_PI = math.log(2), math.log(2 * math.pi)


class Choices(NamedTuple):
    """What a policy may do in B states: A discrete actions, or one that was sampled (A = 1).

    An expectation over π is Σ_a `prob` · f(a) in both cases.
    """

    action: Tensor | None  # (B, k), differentiable; None: the discrete actions in order
    prob: Tensor  # (B, A); 1 of a sample
    log_prob: Tensor  # (B, A)

    def entropy(self) -> Tensor:
        """Return the entropies (B,) in nats; a sampled action's is the estimate -log π(a|s)."""
        return -(self.prob * self.log_prob).sum(-1)


def soft_value(choices: Choices, q: Tensor, alpha: Tensor) -> Tensor:
    """Return E_π[ min_i Q_i(s, a) - α log π(a|s) ] (B,) of values `q` (n, B, A)."""
    return (choices.prob * (q.amin(0) - alpha * choices.log_prob)).sum(-1)


class SquashedGaussian(nn.Module):
    """Continuous actions a = tanh(u), u ~ N(μ(s), σ(s)²) (Haarnoja et al., 2018, appendix C)."""

    def __init__(self, net: nn.Module) -> None:
        """Read means and log-deviations, side by side, from the output of `net`."""
        super().__init__()
        self.net = net

    def choices(self, obs: Tensor, generator: torch.Generator) -> Choices:
        """Draw an action for each state, differentiable in the parameters.

        log π(a|s) = Σ [log N(u; μ, σ²) - log(1 - tanh² u)]; the latter is computed as
        2 (log 2 - u - softplus(-2 u)), which does not cancel where tanh u is near ±1.
        """
        mean, log_std = self._moments(obs)
        noise = torch.empty_like(mean).normal_(generator=generator)
        u = mean + log_std.exp() * noise
        terms = 0.5 * noise.square() + log_std - 2 * (u + F.softplus(-2 * u))
        constant = (0.5 * LOG_TWO_PI + 2 * LOG_TWO) * mean.shape[-1]
        log_prob = -terms.sum(-1, keepdim=True) - constant
        return Choices(u.tanh(), torch.ones_like(log_prob), log_prob)

    def sample(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw an action for each state."""
        mean, log_std = self._moments(obs)
        return (
            torch.empty_like(mean)
            .normal_(generator=generator)
            .mul_(log_std.exp())
            .add_(mean)
            .tanh_()
        )

    def mode(self, obs: Tensor) -> Tensor:
        """Return tanh μ(s)."""
        return self._moments(obs)[0].tanh()

    def _moments(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.net(obs).chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD_RANGE)


class Categorical(nn.Module):
    """Discrete actions."""

    def __init__(self, net: nn.Module) -> None:
        """Read logits from the output of `net`."""
        super().__init__()
        self.net = net

    def choices(self, obs: Tensor, generator: torch.Generator) -> Choices:
        """Return all actions with their probabilities; nothing is drawn."""
        log_prob = self.net(obs).log_softmax(-1)
        return Choices(None, log_prob.exp(), log_prob)

    def sample(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw an action for each state, by the Gumbel-max trick."""
        logits = self.net(obs)
        return (logits - torch.empty_like(logits).exponential_(generator=generator).log_()).argmax(
            -1
        )

    def mode(self, obs: Tensor) -> Tensor:
        """Return the likeliest actions."""
        return self.net(obs).argmax(-1)


Stochastic = SquashedGaussian | Categorical


def policy_for(space: Space[Any], build: Callable[[int], nn.Module]) -> Stochastic:
    """Return the policy for an action space; `build` makes its network of so many outputs."""
    if isinstance(space, Discrete):
        return Categorical(build(int(space.n)))
    assert space.shape is not None
    return SquashedGaussian(build(2 * space.shape[0]))
