"""Advantage actor-critic (Mnih et al., 2016, https://arxiv.org/abs/1602.01783), synchronous.

One step down the gradient of each short rollout of all copies (algorithm S3, batched):

    L = E[ -log π(aₜ|sₜ) Âₜ + c₁ ½ (Rₜ - V(sₜ))² - c₂ S[π](sₜ) ],   Rₜ = Âₜ + V(sₜ)

With λ = 1, Â is the n-step advantage of the paper: Rₜ bootstraps from the rollout's end. With λ < 1
it is the generalised advantage (Schulman et al., 2016), of which that is the special case.

Deviations from the paper, with their reasons:
- Copies step together and their gradients are averaged: the asynchronous threads gained nothing by
  themselves (OpenAI's A2C, 2017).
- A truncated episode bootstraps from the value of its true last observation, as it did not end by
  itself (Pardo et al., 2018).
- Policy and value may have separate networks (`net.shared: false`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import Space
from gymnasium.spaces import Box
from torch import Tensor

from rlhydra.agent.agent import (
    Agent,
    Array,
    Shareable,
    copy_of,
    load_into,
    load_network,
    state_of,
)
from rlhydra.agent.descent import Descent
from rlhydra.clock import Clock
from rlhydra.config import AgentConfig, NetConfig, OptimizerConfig, Scheduled
from rlhydra.env.environment import Transition
from rlhydra.memory.rollout import Rollout, explained_variance
from rlhydra.net.actor_critic import ActorCritic, in_chunks
from rlhydra.net.head import Head
from rlhydra.net.moments import Moments, RewardScaler
from rlhydra.net.plain_actor_critic import PlainActorCritic
from rlhydra.schedule import value_at
from rlhydra.schema import Fraction, NonNegative, Positive


@dataclass(frozen=True)
class A2CConfig(AgentConfig):
    """Settings of A2C."""

    actions: ClassVar = ("discrete", "multidiscrete", "box")
    sharing: ClassVar = "copy"

    gamma: Annotated[float, Fraction]
    lam: Annotated[float, Fraction]  # GAE's lambda; 1: n-step returns, n the horizon
    lr: Annotated[Scheduled, NonNegative]
    optimizer: OptimizerConfig
    horizon: Annotated[int, Positive]  # frames per environment copy and rollout
    value_coef: Annotated[float, NonNegative]
    entropy_coef: Annotated[Scheduled, NonNegative]
    max_grad_norm: Annotated[float, Positive] | None
    normalise_advantage: bool
    normalise_obs: bool
    normalise_reward: bool
    initial_std: Annotated[float, Positive]  # of continuous actions, whose range is [-1, 1]
    net: NetConfig


def a2c_loss(
    log_prob: Tensor,
    entropy: Tensor,
    value: Tensor,
    advantage: Tensor,
    target: Tensor,
    value_coef: float,
    entropy_coef: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss and its policy and value terms; all tensors are (B,)."""
    policy_loss = -(log_prob * advantage).mean()
    value_loss = 0.5 * F.mse_loss(value, target)
    loss = policy_loss + value_coef * value_loss - entropy_coef * entropy.mean()
    return loss, policy_loss, value_loss


class A2C(Agent):
    """Collects `horizon` steps of all copies, then takes one step along their mean gradient."""

    metrics: ClassVar = (
        "loss/policy",
        "loss/value",
        "policy/entropy",
        "loss/explained_variance",
        "schedule/lr",
        "schedule/entropy_coef",
    )

    def __init__(
        self,
        cfg: A2CConfig,
        obs_space: Box,
        action_space: Space[Any],
        num_envs: int,
        seed: np.random.SeedSequence,
        device: torch.device,
    ) -> None:
        super().__init__(obs_space, action_space, num_envs, seed, device)
        self.cfg = cfg
        self.net = ActorCritic(cfg.net, obs_space, action_space, cfg.initial_std).to(device)
        self.head: Head = self.net.head
        self.plain = PlainActorCritic.of(self.net)
        self.descent = Descent(
            cfg.optimizer, self.net.parameters(), value_at(cfg.lr, 0, 1), cfg.max_grad_norm
        )
        self.rollout = Rollout(
            cfg.horizon,
            num_envs,
            obs_space.shape,
            torch.from_numpy(obs_space.low).dtype,
            self.head.action_shape,
            self.head.action_dtype,
            device,
        )
        self.obs_moments = Moments(obs_space.shape) if cfg.normalise_obs else None
        self.reward_scaler = RewardScaler(num_envs, cfg.gamma) if cfg.normalise_reward else None

    def act(self, obs: Array) -> Array:
        """Sample an action for each copy."""
        if self.plain is not None:
            return self.plain.sample(self._normal(obs), self.rng)
        with torch.no_grad():
            output = self.net.acting(self._normal(obs))
            return self.head.sample(output, self.generator).cpu().numpy()

    def observe(self, transition: Transition) -> None:
        """Add one vector step to the rollout."""
        self.rollout.add(transition)

    def update(self, clock: Clock) -> dict[str, float]:
        """Take a step along the gradient of the rollout once it is full."""
        rollout = self.rollout
        if not rollout.full:
            return {}
        lr, entropy_coef = (
            value_at(v, clock.frame, clock.max_frame) for v in (self.cfg.lr, self.cfg.entropy_coef)
        )
        if self.reward_scaler is not None:
            rollout.reward[:] = self.reward_scaler(rollout.reward, rollout.ended)
        parts = self._learn(lr, entropy_coef)
        if self.obs_moments is not None:
            self.obs_moments.add(rollout.obs[:-1].flatten(0, 1).numpy())
        rollout.clear()
        return dict(zip(self.metrics, (*parts, lr, entropy_coef), strict=True))

    def _learn(self, lr: float, entropy_coef: float) -> tuple[float, ...]:
        """Take the step; return its losses, the entropy and the explained variance."""
        cfg, rollout = self.cfg, self.rollout
        horizon, copies = rollout.reward.shape
        size = horizon * copies
        # The last row is only bootstrapped from: one pass serves the targets and the gradient.
        output, value = self.net(self._tensor(rollout.obs.numpy()).flatten(0, 1))
        values = value.detach().cpu().numpy().reshape(horizon + 1, copies)
        advantages = rollout.advantages(values, self._cut_values(), cfg.gamma, cfg.lam)
        targets = advantages + values[:-1]
        advantage, target = (
            torch.from_numpy(x).to(self.device).flatten() for x in (advantages, targets)
        )
        if cfg.normalise_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        action = rollout.action.to(self.device).flatten(0, 1)
        entropy = self.head.entropy(output[:size])
        loss, policy_loss, value_loss = a2c_loss(
            self.head.log_prob(output[:size], action),
            entropy,
            value[:size],
            advantage,
            target,
            cfg.value_coef,
            entropy_coef,
        )
        self.descent.step(loss, lr)
        self.opt_step += 1
        explained = explained_variance(values[:-1], targets)
        return policy_loss.item(), value_loss.item(), entropy.mean().item(), explained

    def _cut_values(self) -> Array | None:
        if not self.rollout.cut_at:
            return None
        return in_chunks(self.net, self._tensor(np.stack(self.rollout.cut_obs)))[1].cpu().numpy()

    def play(
        self, obs: Array, memory: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Array, Tensor | None]:
        """Choose the likeliest actions, or sample them with `generator`."""
        head = self.head
        with torch.no_grad():
            output = self.net.acting(self._normal(obs))
            action = head.mode(output) if generator is None else head.sample(output, generator)
        return action.cpu().numpy(), memory

    def _normal(self, obs: Array) -> Array:
        return obs if self.obs_moments is None else self.obs_moments.normalise(obs)

    def _tensor(self, obs: Array) -> Tensor:
        return torch.from_numpy(self._normal(obs)).to(self.device, non_blocking=True)

    def weights(self) -> dict[str, Any]:
        """Return the network and the observations' statistics."""
        return {"net": copy_of(self.net), "obs_moments": state_of(self.obs_moments)}

    def load_weights(self, weights: dict[str, Any]) -> None:
        """Take over what `weights` returned."""
        load_network(self.net, weights["net"])
        load_into(self.obs_moments, weights["obs_moments"])

    def cut(self) -> None:
        """Drop the begun rollout."""
        self.rollout.clear()
        if self.reward_scaler is not None:
            self.reward_scaler.cut()

    def shared(self) -> Sequence[Shareable]:
        """Return what sessions can have in common."""
        parts = self.descent, self.obs_moments, self.reward_scaler
        return [part for part in parts if part is not None]

    def state(self) -> dict[str, Any]:
        """Return everything that exact resume needs."""
        return {
            **self.weights(),
            **self.streams(),
            "descent": self.descent.state(),
            "rollout": self.rollout.state(),
            "reward_scaler": state_of(self.reward_scaler),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.load_weights(state)
        self.load_streams(state)
        self.descent.load(state["descent"])
        self.rollout.load(state["rollout"])
        load_into(self.reward_scaler, state["reward_scaler"])
