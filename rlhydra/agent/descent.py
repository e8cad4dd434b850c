"""Gradient descent on all of an agent's parameters at once, as one flat vector."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlhydra.agent.agent import Diverged
from rlhydra.config import OptimizerConfig

# Of the optimizers that sessions can share, what they keep beside the count of steps.
MOMENTS = {"Adam": ("exp_avg", "exp_avg_sq"), "RMSprop": ("square_avg",)}


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
        lay_out(self.parameters, self.vector.detach())
        self._name = cfg.name
        self._own: Tensor | None = None  # what the parameters are, where not the shared ones
        fused = {"fused": True} if cfg.name in ("Adam", "AdamW", "SGD") else {}
        cls = getattr(torch.optim, cfg.name)
        self._optimizer: torch.optim.Optimizer = cls([self.vector], lr=lr, **fused, **cfg.kwargs)
        self._gradients: list[NDArray[Any]] = []
        self._address = 0

    def gradients(self) -> list[NDArray[Any]]:
        """Return the parts of `gradient` as arrays of the parameters' shapes, to be written to."""
        if self.gradient.data_ptr() != self._address:
            self._address = self.gradient.data_ptr()
            pieces = self.gradient.split([p.numel() for p in self.parameters])
            pairs = zip(pieces, self.parameters, strict=True)
            self._gradients = [piece.view(like.shape).numpy() for piece, like in pairs]
        return self._gradients

    def step(self, loss: Tensor, lr: float) -> None:
        """Go one step of size `lr` down the gradient of `loss`, scaled down to `max_grad_norm`.

        Raises:
            Diverged: where the loss or its gradient is not finite; the parameters are as they were.
        """
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        torch.cat([g.reshape(-1) for g in gradients], out=self.gradient)
        self.descend(loss.detach(), lr)

    def descend(self, loss: Tensor | float, lr: float) -> None:
        """Go one step down the `gradient` that the caller has written, as `step` does."""
        norm, height = self.gradient.dot(self.gradient).item() ** 0.5, float(loss)
        if not (math.isfinite(norm) and math.isfinite(height)):
            raise Diverged(f"the loss is {height:g}, the norm of its gradient {norm:g}")
        if self.max_grad_norm is not None and norm > self.max_grad_norm:
            self.gradient.mul_(self.max_grad_norm / norm)
        group = self._optimizer.param_groups[0]
        group["lr"] = lr
        if type(self._optimizer) is torch.optim.Adam and not group["amsgrad"]:
            self._adam(group, self._optimizer.state[self.vector])
        else:
            self._optimizer.step()
        self.refresh()

    def _adam(self, group: dict[str, Any], state: dict[str, Any]) -> None:
        """Do what `torch.optim.Adam` does, which spends 40 µs around these 10 µs of work."""
        vector = self.vector.detach()
        if not state:
            state["step"] = torch.zeros((), device=vector.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros(2, *vector.shape).to(vector.device)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        torch._fused_adam_(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            [vector],
            [self.gradient],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
        )

    def state(self) -> dict[str, Any]:
        """Return the optimizer's moments."""
        return {name: _copy(value) for name, value in self._optimizer.state[self.vector].items()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over the moments of `state`."""
        self._optimizer.state[self.vector] = {name: _copy(v) for name, v in state.items()}

    def shared(self) -> list[Tensor]:
        """Return what other sessions can share: the parameters, the optimizer's moments."""
        state, blank = self.state(), torch.zeros_like(self.vector)
        moments = [state.get(name, blank).detach() for name in MOMENTS[self._name]]
        return [self.vector.detach(), state.get("step", torch.tensor(0.0)), *moments]

    def share(self, tensors: Sequence[Tensor], *, live: bool) -> None:
        """Step on `tensors`, which other processes step on too, instead of those of `shared`.

        The parameters become views of the shared ones if `live`; else they are a copy, which takes
        over the shared ones after each step and does not change between.
        """
        vector, step, *moments = tensors
        self._own = None if live else self.vector.detach()
        self.vector.data = vector
        named = dict(zip(MOMENTS[self._name], moments, strict=True))
        self._optimizer.state[self.vector] = {"step": step, **named}
        if live:
            lay_out(self.parameters, vector)
        self.refresh()

    def refresh(self) -> None:
        """Let a copy take over the shared parameters as they are now."""
        if self._own is not None:
            self._own.copy_(self.vector.detach())

    @contextlib.contextmanager
    def latest(self) -> Generator[None]:
        """Let a copy have the shared parameters as they are now, for a while."""
        if self._own is None:
            yield
            return
        before = self._own.clone()
        self.refresh()
        try:
            yield
        finally:
            self._own.copy_(before)

    @property
    def steps(self) -> int:
        """Steps so far, of all sessions that share it; nearly, as they count without a lock."""
        return int(self._optimizer.state[self.vector].get("step", 0))


def lay_out(parameters: Iterable[nn.Parameter], vector: Tensor) -> None:
    """Make `parameters` views of `vector`, whose values they take."""
    parameters = list(parameters)
    pieces = vector.split([p.numel() for p in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.data = piece.view(parameter.shape)


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
