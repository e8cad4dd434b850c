"""SARSA: on-policy control by temporal differences (Rummery and Niranjan, 1994).

Q(s, a) of an ε-greedy policy is moved towards the λ-return of what that policy did (Sutton and
Barto, 2018, sections 6.4 and 12.8):

    Gₜ = Rₜ + γ [ (1 - λ) Q(sₜ₊₁, aₜ₊₁) + λ Gₜ₊₁ ],   with λ = 0 SARSA's own target

As in the book, A' is chosen before Q is changed, and is the action that is taken after.

Deviations from the book, with their reasons:
- Q is a network, all copies step together, and the targets of a rollout of `horizon` steps stay
  while it is fitted to them in minibatches, for `epochs` passes: single samples are slow, and their
  correlation makes a network diverge (Gallici et al., 2024, do the same for Q-learning).
- A truncated episode bootstraps from its true last observation, with the action that the policy
  would have taken there (Pardo et al., 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import Space
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from rlhydra.agent.agent import Agent, Array, copy_of, load_into, load_network, state_of
from rlhydra.agent.descent import Descent
from rlhydra.clock import Clock
from rlhydra.config import AgentConfig, EnvConfig, NetConfig, OptimizerConfig, Scheduled
from rlhydra.env.environment import Transition
from rlhydra.memory.rollout import Rollout, explained_variance
from rlhydra.net.actor_critic import in_chunks
from rlhydra.net.moments import Moments
from rlhydra.net.trunk import network
from rlhydra.schedule import value_at
from rlhydra.schema import ConfigError, Fraction, NonNegative, Positive


@dataclass(frozen=True)
class SarsaConfig(AgentConfig):
    """Settings of SARSA."""

    actions: ClassVar = ("discrete",)

    gamma: Annotated[float, Fraction]
    lam: Annotated[float, Fraction]  # of the λ-return; 0: one step
    lr: Annotated[Scheduled, NonNegative]
    optimizer: OptimizerConfig
    horizon: Annotated[int, Positive]  # frames per environment copy and rollout
    epochs: Annotated[int, Positive]  # passes over a rollout
    minibatch_size: Annotated[int, Positive]
    epsilon: Annotated[Scheduled, Fraction]  # share of random actions
    eval_epsilon: Annotated[float, Fraction]  # share of random actions where evaluation samples
    max_grad_norm: Annotated[float, Positive] | None
    normalise_obs: bool
    net: NetConfig

    def check(self, env: EnvConfig) -> None:
        """Raise ConfigError where minibatches do not fill a rollout, or a setting is idle."""
        size = env.num_envs * self.horizon
        if size % self.minibatch_size:
            raise ConfigError(
                "agent.minibatch_size",
                f"{self.minibatch_size} does not divide num_envs x horizon = {size}; use a divisor",
            )
        if not self.net.shared:
            raise ConfigError("agent.net.shared", "SARSA has one network; use true")


def epsilon_greedy(values: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """Return for each row of `values` (B, A) the best action, or with probability ε any action."""
    count, actions = values.shape
    best = values.argmax(-1)
    explore = torch.rand(count, generator=generator, device=values.device) < epsilon
    any_action = torch.randint(actions, (count,), generator=generator, device=values.device)
    return torch.where(explore, any_action, best)


def taken(values: Tensor, action: Tensor) -> Tensor:
    """Return the values (B,) of the actions (B,) in `values` (B, A)."""
    return values.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def sarsa_loss(net: nn.Module, obs: Tensor, action: Tensor, target: Tensor) -> Tensor:
    """Return ½ E[ (G - Q(s, a))² ]."""
    return 0.5 * F.mse_loss(taken(net(obs), action), target)


class Sarsa(Agent):
    """Acts ε-greedily, and every `horizon` steps fits Q to the λ-returns of these steps."""

    metrics: ClassVar = (
        "loss/value",
        "policy/value",
        "loss/explained_variance",
        "schedule/lr",
        "schedule/epsilon",
    )

    def __init__(
        self,
        cfg: SarsaConfig,
        obs_space: Box,
        action_space: Space[Any],
        num_envs: int,
        seed: np.random.SeedSequence,
        device: torch.device,
    ) -> None:
        super().__init__(obs_space, action_space, num_envs, seed, device)
        assert isinstance(action_space, Discrete)
        self.cfg = cfg
        self.net = network(cfg.net, obs_space, int(action_space.n)).to(device)
        self.descent = Descent(
            cfg.optimizer, self.net.parameters(), value_at(cfg.lr, 0, 1), cfg.max_grad_norm
        )
        self.epsilon = value_at(cfg.epsilon, 0, 1)
        self.rollout = Rollout(
            cfg.horizon,
            num_envs,
            obs_space.shape,
            torch.from_numpy(obs_space.low).dtype,
            (),
            torch.int64,
            device,
        )
        self.obs_moments = Moments(obs_space.shape) if cfg.normalise_obs else None
        # A' of the copies whose episode goes on over a rollout's end, -1 of the others.
        self._decided = torch.full((num_envs,), -1, device=device)

    def act(self, obs: Array) -> Array:
        """Choose an action for each copy, or keep to the one that the last targets were made of."""
        with torch.no_grad():
            action = epsilon_greedy(self.net(self._tensor(obs)), self.epsilon, self.generator)
        if self.rollout.size == 0:
            action = torch.where(self._decided < 0, action, self._decided)
        return action.cpu().numpy()

    def observe(self, transition: Transition) -> None:
        """Add one vector step to the rollout."""
        self.rollout.add(transition)

    def update(self, clock: Clock) -> dict[str, float]:
        """Learn from the rollout once it is full."""
        self.epsilon = value_at(self.cfg.epsilon, clock.frame, clock.max_frame)
        rollout = self.rollout
        if not rollout.full:
            return {}
        lr = value_at(self.cfg.lr, clock.frame, clock.max_frame)
        obs = self._tensor(rollout.obs.numpy()).flatten(0, 1)
        values, targets = self._targets(obs)
        loss = self._learn(obs[: targets.size], torch.from_numpy(targets), lr)
        if self.obs_moments is not None:
            self.obs_moments.add(rollout.obs[:-1].flatten(0, 1).numpy())
        rollout.clear()
        explained = explained_variance(values, targets)
        metrics = (loss, float(values.mean()), explained, lr, self.epsilon)
        return dict(zip(self.metrics, metrics, strict=True))

    def _targets(self, obs: Tensor) -> tuple[Array, Array]:
        """Return Q of what was done and its λ-returns, both (T, N); decide on the next actions."""
        rollout = self.rollout
        horizon, copies = rollout.reward.shape
        (q,) = in_chunks(self._q, obs)
        following = epsilon_greedy(q[-copies:], self.epsilon, self.generator)
        ended = torch.from_numpy(rollout.ended[-1]).to(self.device)
        self._decided = torch.where(ended, -1, following)
        action = rollout.action.to(self.device).flatten(0, 1)
        done = taken(q, torch.cat([action, following]))
        values = done.cpu().numpy().reshape(horizon + 1, copies)
        advantages = rollout.advantages(values, self._cut_values(), self.cfg.gamma, self.cfg.lam)
        return values[:-1], advantages + values[:-1]

    def _cut_values(self) -> Array | None:
        if not self.rollout.cut_at:
            return None
        (q,) = in_chunks(self._q, self._tensor(np.stack(self.rollout.cut_obs)))
        return taken(q, epsilon_greedy(q, self.epsilon, self.generator)).cpu().numpy()

    def _q(self, obs: Tensor) -> tuple[Tensor]:
        return (self.net(obs),)

    def _learn(self, obs: Tensor, targets: Tensor, lr: float) -> float:
        """Take a step for each minibatch of each epoch; return the mean loss."""
        action, target = (x.to(self.device).flatten() for x in (self.rollout.action, targets))
        losses: list[Tensor] = []
        for _ in range(self.cfg.epochs):
            order = torch.randperm(len(target), generator=self.generator, device=self.device)
            for index in order.split(self.cfg.minibatch_size):
                batch = (x.index_select(0, index) for x in (obs, action, target))
                loss = sarsa_loss(self.net, *batch)
                self.descent.step(loss, lr)
                self.opt_step += 1
                losses.append(loss.detach())
        return torch.stack(losses).mean().item()

    def play(
        self, obs: Array, memory: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Array, Tensor | None]:
        """Choose the best actions; with `generator`, a share `eval_epsilon` of them at random."""
        with torch.no_grad():
            q = self.net(self._tensor(obs))
        if generator is None:
            return q.argmax(-1).cpu().numpy(), memory
        return epsilon_greedy(q, self.cfg.eval_epsilon, generator).cpu().numpy(), memory

    def _tensor(self, obs: Array) -> Tensor:
        if self.obs_moments is not None:
            obs = self.obs_moments.normalise(obs)
        return torch.from_numpy(obs).to(self.device)

    def weights(self) -> dict[str, Any]:
        """Return the network and the observations' statistics."""
        return {"net": copy_of(self.net), "obs_moments": state_of(self.obs_moments)}

    def load_weights(self, weights: dict[str, Any]) -> None:
        """Take over what `weights` returned."""
        load_network(self.net, weights["net"])
        load_into(self.obs_moments, weights["obs_moments"])

    def cut(self) -> None:
        """Drop the begun rollout, and the actions decided on."""
        self.rollout.clear()
        self._decided = torch.full_like(self._decided, -1)

    def state(self) -> dict[str, Any]:
        """Return everything that exact resume needs."""
        return {
            **self.weights(),
            **self.streams(),
            "descent": self.descent.state(),
            "rollout": self.rollout.state(),
            "epsilon": self.epsilon,
            "decided": self._decided,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.load_weights(state)
        self.load_streams(state)
        self.descent.load(state["descent"])
        self.rollout.load(state["rollout"])
        self.epsilon = state["epsilon"]
        self._decided = state["decided"].to(self.device)
