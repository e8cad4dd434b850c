"""Compares nested states of agents."""

from typing import Any

import numpy as np
import torch

from rlhydra.memory.ring import Rows


def same(one: Any, other: Any) -> bool:
    """Return whether two nested states are equal to the last bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Rows):
        span = (one.start, one.stop)
        return span == (other.start, other.stop) and same(one.read(*span), other.read(*span))
    if isinstance(one, (torch.Tensor, np.ndarray)):
        return np.array_equal(np.asarray(one), np.asarray(other))
    return one == other
