"""Returns as distributions over fixed atoms: C51's targets and errors (Bellemare et al., 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhydra.memory.replay import Batch


def expectation(logits: Tensor, support: Tensor) -> Tensor:
    """Return the means Σ zᵢ pᵢ of the distributions in the last axis."""
    return logits.softmax(-1) @ support


def project(probabilities: Tensor, reward: Tensor, discount: Tensor, support: Tensor) -> Tensor:
    """Return the distribution of r + γ Z on the atoms of Z (Bellemare et al., 2017, eq. 7).

    `probabilities` and the result are (B, atoms), `reward` and `discount` (B,), `support` (atoms,)
    with equal steps. What falls between two atoms is divided among them, nearer ones getting more.
    """
    low, high, last = support[0], support[-1], len(support) - 1
    moved = (reward[:, None] + discount[:, None] * support).clamp(low, high)
    place = (moved - low) * (last / (high - low))
    # The last atom has none above: it counts as the upper neighbour, with all of the weight.
    below = place.floor().clamp(0, last - 1)
    share = (place - below).clamp(0, 1) * probabilities
    index = below.to(torch.int64)
    projected = torch.zeros_like(probabilities)
    projected.scatter_add_(1, index, probabilities - share)
    return projected.scatter_add_(1, index + 1, share)


def distributional_targets(
    net: nn.Module, target_net: nn.Module, batch: Batch, support: Tensor, double: bool
) -> Tensor:
    """Return the distributions (B, atoms) that those of the taken actions should be."""
    logits = target_net(batch.next_obs)
    chooser = net(batch.next_obs) if double else logits
    action = expectation(chooser, support).argmax(-1)
    return project(taken(logits, action).softmax(-1), batch.reward, batch.discount, support)


def divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Return KL(target ‖ softmax(logits)) (B,), whose gradient is the cross-entropy's."""
    return F.kl_div(logits.log_softmax(-1), target, reduction="none").sum(-1)


def taken(values: Tensor, action: Tensor) -> Tensor:
    """Return the entries (B, ...) of `values` (B, A, ...) that belong to the actions (B,)."""
    return values[torch.arange(len(action), device=values.device), action]
