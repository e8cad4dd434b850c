"""The plain case of PPO, perceptrons on a CPU, with its gradient written out in numpy."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from rlhydra.agent.descent import Descent
from rlhydra.net.plain_actor_critic import PlainActorCritic


class PlainPPO:
    """Takes the step that `ppo_loss` and autograd give, in a third of the time."""

    def __init__(
        self,
        net: PlainActorCritic,
        descent: Descent,
        clip_value: float | None,
        value_coef: float,
    ) -> None:
        self.net, self._descent = net, descent
        self._clip_value, self._value_coef = clip_value, value_coef

    def step(
        self, batch: Iterable[Tensor], lr: float, clip: float, entropy_coef: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take a step; return its losses and the logarithms of the ratios (B,)."""
        obs, action, old_log_prob, advantage, target, old = (tensor.numpy() for tensor in batch)
        size = len(advantage)
        with np.errstate(all="ignore"):  # what is not finite ends in Diverged
            log_prob, value = self.net(obs, action)
            log_ratio = log_prob - old_log_prob
            gain = np.exp(log_ratio) * advantage
            bound = advantage + clip * np.abs(advantage)
            policy_loss = -float(np.add.reduce(np.minimum(gain, bound))) / size
            gain[gain > bound] = 0  # beyond the clip the ratio does not matter
            error = value - target
            squares = np.square(error)
            if self._clip_value is not None:
                change = value - old
                near = np.clip(change, -self._clip_value, self._clip_value)
                clipped = np.square(old + near - target)
                error[(clipped > squares) & (near != change)] = 0  # nor does the value
                np.maximum(clipped, squares, out=squares)
            value_loss = 0.5 * float(np.add.reduce(squares)) / size
            self.net.backward(
                gain * (-1 / size),
                -entropy_coef / size,
                error * (self._value_coef / size),
                self._descent.gradients(),
            )
        self._descent.descend(policy_loss + self._value_coef * value_loss, lr)
        losses = torch.tensor((policy_loss, value_loss))
        return losses[0], losses[1], torch.from_numpy(log_ratio)
