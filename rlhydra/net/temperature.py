"""The weight of the entropy in soft actor-critic's objective, constant or learned."""

from __future__ import annotations

import math
from typing import Any

import torch
from gymnasium import Space
from gymnasium.spaces import Discrete

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
        self.constant = constant
        self.target_entropy = target_entropy
        self.value = torch.tensor(initial if constant is None else constant, device=device)
        self._log = self.value.log()
        self._log.grad = torch.zeros_like(self._log)
        fused = {"fused": True} if cfg.name in ("Adam", "AdamW", "SGD") else {}
        cls = getattr(torch.optim, cfg.name)
        self._optimizer: torch.optim.Optimizer = cls([self._log], lr=0.0, **fused, **cfg.kwargs)

    def adapt(self, entropy: float, lr: float) -> None:
        """Take a step: α rises where the policy's mean `entropy` is below its target."""
        if self.constant is not None:
            return
        assert self._log.grad is not None
        self._log.grad.fill_(entropy - self.target_entropy)
        self._optimizer.param_groups[0]["lr"] = lr
        self._optimizer.step()
        self.value = self._log.exp()

    def set(self, value: float) -> None:
        """Go on from `value`, unless α is constant."""
        if self.constant is None:
            self._log.fill_(math.log(value))
            self.value = self._log.exp()

    def state(self) -> dict[str, Any]:
        """Return what `load` needs."""
        moments = self._optimizer.state[self._log]
        return {"log": self._log.clone(), "moments": {k: _copy(v) for k, v in moments.items()}}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned, in an agent of the same settings."""
        self._log.copy_(state["log"])
        self._optimizer.state[self._log] = {k: _copy(v) for k, v in state["moments"].items()}
        if self.constant is None:
            self.value = self._log.exp()


def default_target_entropy(space: Space[Any], fraction: float) -> float:
    """Return -(numbers of an action), or `fraction` of the greatest entropy of discrete ones."""
    if isinstance(space, Discrete):
        return fraction * math.log(int(space.n))
    assert space.shape is not None
    return -float(math.prod(space.shape))


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value
