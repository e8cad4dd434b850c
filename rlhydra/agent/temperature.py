"""The weight of the entropy in soft actor-critic's objective, constant or learned."""

from __future__ import annotations

import math
from typing import Any

import torch
from gymnasium import Space
from gymnasium.spaces import Discrete
from torch import nn

from rlhydra.agent.agent import load_into, state_of
from rlhydra.agent.descent import Descent
from rlhydra.config import OptimizerConfig


class Temperature:
    """α, whose logarithm goes down the gradient of log α · (H(π) - H̄) (Haarnoja et al., 2019)."""

    def __init__(
        self,
        constant: float | None,
        initial: float,
        target_entropy: float,
        cfg: OptimizerConfig,
        device: torch.device,
    ) -> None:
        """Keep α `constant`, or where that is None learn it from `initial` on."""
        self.target_entropy = target_entropy
        self.value = torch.tensor(initial if constant is None else constant, device=device)
        self._log = nn.Parameter(self.value.log())
        self.descent = Descent(cfg, [self._log], 0.0, None) if constant is None else None

    def adapt(self, entropy: float, lr: float) -> None:
        """Take a step: α rises where the policy's mean `entropy` is below its target."""
        if self.descent is None:
            return
        surplus = entropy - self.target_entropy
        self.descent.gradient.fill_(surplus)
        self.descent.descend(self._log.item() * surplus, lr)
        self.value = self._log.detach().exp()

    def set(self, value: float) -> None:
        """Go on from `value`, unless α is constant."""
        if self.descent is not None:
            self._log.data.fill_(math.log(value))
            self.value = self._log.detach().exp()

    def state(self) -> dict[str, Any]:
        """Return what `load` needs."""
        return {"log": self._log.detach().clone(), "descent": state_of(self.descent)}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned, in an agent of the same settings."""
        self._log.data.copy_(state["log"])
        load_into(self.descent, state["descent"])
        if self.descent is not None:
            self.value = self._log.detach().exp()


def default_target_entropy(space: Space[Any], fraction: float) -> float:
    """Return -(numbers of an action), or `fraction` of the greatest entropy of discrete ones."""
    if isinstance(space, Discrete):
        return fraction * math.log(int(space.n))
    assert space.shape is not None
    return -float(math.prod(space.shape))
