"""What every agent is to a session: acts, observes, updates, and can be saved."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor, nn

from rlhydra.clock import Clock
from rlhydra.env.environment import Transition
from rlhydra.schema import ConfigError

Array = NDArray[Any]


class Diverged(Exception):  # noqa: N818 - an outcome of training, not a mistake
    """A loss or gradient is no longer finite: going on would only destroy the parameters."""


def finite(metrics: dict[str, float]) -> dict[str, float]:
    """Return what an update measured.

    Raises:
        Diverged: where a loss is not finite, of an agent that did not look itself.
    """
    for name, value in metrics.items():
        if name.startswith("loss/") and not math.isfinite(value):
            raise Diverged(f"{name} is {value:g}")
    return metrics


class Agent(ABC):
    """One learner: owns its networks, optimizers and memory, and its streams of randomness.

    A session calls `act`, `observe` and `update` in turn for each vector step.
    """

    # Names of what `update` returns: the columns of train.csv and the tags in TensorBoard.
    metrics: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        obs_space: Box,
        action_space: Space[Any],
        num_envs: int,
        seed: np.random.SeedSequence,
        device: torch.device,
    ) -> None:
        self.obs_space = obs_space
        self.action_space = action_space
        self.num_envs = num_envs
        self.device = device
        self.opt_step = 0  # optimizer steps so far
        words = seed.generate_state(3)
        self.generator = torch.Generator(device).manual_seed(int(words[0]))
        self.rng = np.random.default_rng(int(words[1]))
        torch.manual_seed(int(words[2]))  # initial weights

    @abstractmethod
    def act(self, obs: Array) -> Array:
        """Choose the training actions (N, ...) for the observations (N, ...)."""

    @abstractmethod
    def observe(self, transition: Transition) -> None:
        """Remember what the last actions led to."""

    @abstractmethod
    def update(self, clock: Clock) -> dict[str, float]:
        """Learn where it is time to; return the `metrics` of what was learned, or nothing.

        Raises:
            Diverged: where a loss or gradient is not finite; nothing was changed by it.
        """

    @abstractmethod
    def play(
        self, obs: Array, memory: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Array, Tensor | None]:
        """Choose actions in evaluation: the best ones, or with a `generator` sampled ones.

        Neither changes the agent nor its streams of randomness. `memory` is None at first; it is
        returned, and where it is not None the caller sets `memory[..., copies, :]` to 0 for copies
        that start anew.
        """

    @abstractmethod
    def weights(self) -> dict[str, Any]:
        """Return what is needed to play: networks and normalisers."""

    @abstractmethod
    def load_weights(self, weights: dict[str, Any]) -> None:
        """Take over what `weights` returned.

        Raises:
            ConfigError: by the layers' names, where the networks differ.
        """

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return everything that exact resume needs: dicts of tensors, arrays, JSON values."""

    @abstractmethod
    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned, in an agent of the same settings."""

    def cut(self) -> None:  # noqa: B027 - there may be nothing to forget
        """Forget the running games: they could not be restored, and every copy begins a new one."""

    def shared(self) -> Sequence[Shareable | nn.Module]:
        """Return what sessions have in common under `meta.distributed`.

        Descents, running statistics, target networks, in the same order each time.
        """
        return ()

    def networks(self) -> list[nn.Module]:
        """Return the agent's networks, its older copies of them among these."""
        return [part for part in vars(self).values() if isinstance(part, nn.Module)]

    def streams(self) -> dict[str, Any]:
        """Return the state of the streams of randomness, and the count of optimizer steps."""
        return {
            "generator": self.generator.get_state(),
            "rng": self.rng.bit_generator.state,
            "opt_step": self.opt_step,
        }

    def load_streams(self, state: dict[str, Any]) -> None:
        """Take over what `streams` returned."""
        self.generator.set_state(state["generator"].cpu())
        self.rng.bit_generator.state = state["rng"]
        self.opt_step = state["opt_step"]


class Shareable(Protocol):
    """A part of an agent that can lie in memory which other processes change too."""

    def shared(self) -> list[Tensor]:
        """Return its numbers as they are."""
        ...

    def share(self, tensors: Sequence[Tensor], *, live: bool) -> None:
        """Go on with `tensors` in their place; not `live`: what acts changes with a step only."""
        ...


class Stateful(Protocol):
    """A part of an agent that is saved with it."""

    def state(self) -> dict[str, Any]:
        """Return what `load` needs."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        ...


def state_of(part: Stateful | None) -> dict[str, Any] | None:
    """Return the state of a part that the settings may have left out."""
    return None if part is None else part.state()


def load_into(part: Stateful | None, state: dict[str, Any] | None) -> None:
    """Load a part that the settings may have left out.

    Raises:
        ConfigError: where only one of the two agents has it.
    """
    if (part is None) != (state is None):
        raise ConfigError("agent", "the saved agent was made with other normalisation settings")
    if part is not None and state is not None:
        part.load(state)


def copy_of(net: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of `net` as they are now."""
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def load_network(net: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy `weights` into `net`.

    Raises:
        ConfigError: naming the layers that differ.
    """
    mine = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    differing = [n for n in mine | theirs if mine.get(n) != theirs.get(n)]
    if differing:
        shown = "; ".join(f"{n} {theirs.get(n)} -> {mine.get(n)}" for n in differing[:4])
        problem = f"the saved network has other layers: {shown}"
        raise ConfigError("agent.net", f"{problem} ({len(differing)} in all)")
    net.load_state_dict(weights)
