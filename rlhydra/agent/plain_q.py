"""The plain case of Q-learning, perceptrons on a CPU, with its gradient written out in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rlhydra.agent.descent import Descent
from rlhydra.memory.replay import Batch
from rlhydra.net.perceptron import Perceptron

Array = NDArray[Any]


class PlainQ:
    """Computes what `q_targets`, `loss_of` and autograd do, in a third of the time."""

    def __init__(self, net: nn.Sequential, target_net: nn.Sequential, descent: Descent) -> None:
        self.net, self._target_net = Perceptron(net), Perceptron(target_net)
        self._descent = descent

    def learn(
        self, batch: Batch, lr: float, *, double: bool, huber: bool, weighted: bool
    ) -> tuple[Array, float, float]:
        """Take a step; return the errors (B,), the mean loss, the mean value of the actions."""
        obs, action, reward, next_obs, discount, weight = (tensor.numpy() for tensor in batch[:6])
        rows = np.arange(len(action))
        inputs: list[Array] = []
        with np.errstate(all="ignore"):  # what is not finite ends in Diverged
            values = self._target_net(next_obs)
            best = values[rows, self.net(next_obs).argmax(1)] if double else values.max(1)
            q = self.net(obs, inputs)
            value = q[rows, action]
            error = value - (reward + discount * best)
            # Of the Huber loss the clipped error is the slope c, and c (δ - c / 2) the value.
            slope = np.clip(error, -1, 1) if huber else error
            losses = slope * (error - 0.5 * slope)
            if weighted:
                slope, losses = slope * weight, losses * weight
            slopes = np.zeros_like(q)
            slopes[rows, action] = slope / len(slope)
            self.net.backward(inputs, slopes, self._descent.gradients())
            loss = float(np.add.reduce(losses)) / len(rows)
            self._descent.descend(loss, lr)
        return error, loss, float(np.add.reduce(value)) / len(rows)
