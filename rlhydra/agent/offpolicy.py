"""What agents that learn from a replay memory have in common, as functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from rlhydra.memory.replay import Batch
from rlhydra.schema import ConfigError

Array = NDArray[Any]


def crossed(frame: int, num_envs: int, every: int) -> int:
    """Return how many multiples of `every` the last vector step, up to `frame`, came to or passed.

    So the number of updates a frame does not depend on the number of environment copies. Sessions
    that share a clock go by their own frames: others' steps fall between theirs.
    """
    return frame // every - (frame - num_envs) // every


def random_actions(space: Space[Any], num_envs: int, rng: np.random.Generator) -> Array:
    """Return uniformly random actions for all copies."""
    if isinstance(space, Discrete):
        return rng.integers(int(space.n), size=num_envs)
    assert space.shape is not None
    return rng.uniform(-1, 1, (num_envs, *space.shape)).astype(np.float32)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return `batch` with its tensors on `device`."""
    if device.type == "cpu":
        return batch
    fields = batch._asdict()
    index = fields.pop("index")
    return Batch(**{name: tensor.to(device) for name, tensor in fields.items()}, index=index)


def check_bounded(space: Space[Any]) -> None:
    """Raise ConfigError for continuous actions without bounds, which a tanh would never reach."""
    if isinstance(space, Box) and not space.is_bounded():
        problem = f"squashed actions need a bounded action space, got {space}; use ppo or a2c"
        raise ConfigError("agent", problem)


def flush_denormals() -> None:
    """Let numbers below 1e-38 be 0 in this thread.

    The moments of an idle unit shrink at each step of Adam until the processor computes with
    denormal numbers: after a thousand steps a step takes ten times as long.
    """
    torch.set_flush_denormal(True)
