"""Gradient descent on all of an agent's parameters at once, as one flat vector."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from rlhydra.agent.agent import Diverged
from rlhydra.config import OptimizerConfig


class Descent:
    """An optimizer whose parameters are made views of one vector: a step is a handful of kernels.

    For the twelve small tensors of two perceptrons, clipping and stepping take a third of the time.
    Every optimizer that can be configured works element by element, so the result is the same.
    """

    def __init__(
        self,
        cfg: OptimizerConfig,
        parameters: Iterable[nn.Parameter],
        lr: float,
        max_grad_norm: float | None,
    ) -> None:
        self.parameters = list(parameters)
        self.max_grad_norm = max_grad_norm
        self.vector = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in self.parameters]))
        self.gradient = torch.zeros_like(self.vector)
        self.vector.grad = self.gradient
        pieces = self.vector.detach().split([p.numel() for p in self.parameters])
        for parameter, piece in zip(self.parameters, pieces, strict=True):
            parameter.data = piece.view(parameter.shape)
        fused = {"fused": True} if cfg.name in ("Adam", "AdamW", "SGD") else {}
        cls = getattr(torch.optim, cfg.name)
        self._optimizer: torch.optim.Optimizer = cls([self.vector], lr=lr, **fused, **cfg.kwargs)

    def step(self, loss: Tensor, lr: float) -> None:
        """Go one step of size `lr` down the gradient of `loss`, scaled down to `max_grad_norm`.

        Raises:
            Diverged: where the gradient is not finite; the parameters are as they were.
        """
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        torch.cat([g.reshape(-1) for g in gradients], out=self.gradient)
        self.descend(loss.detach(), lr)

    def descend(self, loss: Tensor | float, lr: float) -> None:
        """Go one step down the `gradient` that the caller has written, as `step` does."""
        norm = self.gradient.norm().item()
        if not math.isfinite(norm):
            raise Diverged(f"the loss is {float(loss):g}, the norm of its gradient {norm:g}")
        if self.max_grad_norm is not None and norm > self.max_grad_norm:
            self.gradient.mul_(self.max_grad_norm / norm)
        self._optimizer.param_groups[0]["lr"] = lr
        self._optimizer.step()

    def state(self) -> dict[str, Any]:
        """Return the optimizer's moments."""
        return {name: _copy(value) for name, value in self._optimizer.state[self.vector].items()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over the moments of `state`."""
        self._optimizer.state[self.vector] = {name: _copy(v) for name, v in state.items()}


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
