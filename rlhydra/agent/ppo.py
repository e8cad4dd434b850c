"""Proximal policy optimisation (Schulman et al., 2017, https://arxiv.org/abs/1707.06347).

Maximises eq. 9, with rₜ = π(aₜ|sₜ) / π_old(aₜ|sₜ) and the generalised advantage Âₜ of Schulman et
al. (2016), over several epochs of minibatches of each rollout:

    L = E[ min(rₜ Âₜ, clip(rₜ, 1 - ε, 1 + ε) Âₜ) - c₁ (V(sₜ) - Vᵗᵃʳᵍ)² + c₂ S[π](sₜ) ]

Deviations from the paper, with their reasons:
- A truncated episode bootstraps from the value of its true last observation, as it did not end by
  itself (Pardo et al., 2018); the authors' code treats it as terminated.
- Advantages are normalised in each minibatch, gradients clipped by their norm, weights initialised
  orthogonally (as in the authors' code; Huang et al., 2022, give the effects).
- The value loss is ½ (V - Vᵗᵃʳᵍ)², so `value_coef` is twice the paper's c₁; its clipping is off by
  default, which Andrychowicz et al. (2021) found better.
- Statistics that normalise observations change between rollouts only, so that one policy, and not a
  drifting one, acts throughout a rollout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

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
from rlhydra.agent.plain_ppo import PlainPPO
from rlhydra.clock import Clock
from rlhydra.config import (
    AgentConfig,
    EnvConfig,
    NetConfig,
    OptimizerConfig,
    Scheduled,
)
from rlhydra.env.environment import Transition
from rlhydra.memory.rollout import Rollout, explained_variance, rows
from rlhydra.net.actor_critic import ActorCritic, in_chunks
from rlhydra.net.head import Head
from rlhydra.net.moments import Moments, RewardScaler
from rlhydra.net.plain_actor_critic import PlainActorCritic
from rlhydra.schedule import value_at
from rlhydra.schema import ConfigError, Fraction, NonNegative, Positive


@dataclass(frozen=True)
class PPOConfig(AgentConfig):
    """Settings of PPO."""

    actions: ClassVar = ("discrete", "multidiscrete", "box")
    sharing: ClassVar = "copy"

    gamma: Annotated[float, Fraction]
    lam: Annotated[float, Fraction]  # GAE's lambda
    lr: Annotated[Scheduled, NonNegative]
    optimizer: OptimizerConfig
    horizon: Annotated[int, Positive]  # frames per environment copy and rollout
    epochs: Annotated[int, Positive]  # passes over a rollout
    minibatch_size: Annotated[int, Positive]
    clip: Annotated[Scheduled, NonNegative]  # the paper's epsilon
    clip_value: Annotated[float, Positive] | None  # the same for the change of the value
    value_coef: Annotated[float, NonNegative]
    entropy_coef: Annotated[Scheduled, NonNegative]
    max_grad_norm: Annotated[float, Positive] | None
    target_kl: Annotated[float, Positive] | None  # ends a rollout's epochs when passed
    normalise_advantage: bool
    normalise_obs: bool
    normalise_reward: bool
    initial_std: Annotated[float, Positive]  # of continuous actions, whose range is [-1, 1]
    net: NetConfig

    def check(self, env: EnvConfig) -> None:
        """Raise ConfigError where minibatches do not fill a rollout."""
        size = env.num_envs * self.horizon
        if size % self.minibatch_size:
            raise ConfigError(
                "agent.minibatch_size",
                f"{self.minibatch_size} does not divide num_envs x horizon = {size}; use a divisor",
            )


class Batch(NamedTuple):
    """A minibatch of a rollout; all but `obs` and `action` are (B,)."""

    obs: Tensor
    action: Tensor
    log_prob: Tensor  # of the action, under the policy that took it
    advantage: Tensor
    target: Tensor  # of the value: advantage + old value
    value: Tensor  # old


class Parts(NamedTuple):
    """What a loss was made of, detached."""

    policy: Tensor
    value: Tensor
    log_ratio: Tensor  # (B,), log π(a|s) - log π_old(a|s)


def ppo_loss(
    head: Head,
    output: Tensor,
    value: Tensor,
    batch: Batch,
    clip: float,
    clip_value: float | None,
    value_coef: float,
    entropy_coef: float,
) -> tuple[Tensor, Parts]:
    """Return the loss, which is eq. 9 negated, and its parts.

    `output` (B, ...) and `value` (B,) are what the network makes of the batch's observations.
    """
    log_ratio = head.log_prob(output, batch.action) - batch.log_prob
    # min(r Â, clip(r, 1 - ε, 1 + ε) Â) = min(r Â, Â + ε |Â|), in half the operations
    bound = batch.advantage + clip * batch.advantage.abs()
    policy_loss = -torch.minimum(log_ratio.exp() * batch.advantage, bound).mean()
    if clip_value is None:
        value_loss = 0.5 * F.mse_loss(value, batch.target)
    else:
        near_old = batch.value + (value - batch.value).clamp(-clip_value, clip_value)
        errors = (value - batch.target).square(), (near_old - batch.target).square()
        value_loss = 0.5 * torch.maximum(*errors).mean()
    loss = policy_loss + value_coef * value_loss
    if entropy_coef:
        loss = loss - entropy_coef * head.entropy(output).mean()
    return loss, Parts(policy_loss.detach(), value_loss.detach(), log_ratio.detach())


class PPO(Agent):
    """Collects `horizon` steps of all copies, then learns from them for `epochs` passes."""

    metrics: ClassVar = (
        "loss/policy",
        "loss/value",
        "policy/kl",
        "policy/clip_fraction",
        "policy/entropy",
        "loss/explained_variance",
        "schedule/lr",
        "schedule/clip",
        "schedule/entropy_coef",
    )

    def __init__(
        self,
        cfg: PPOConfig,
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
        self.descent = Descent(
            cfg.optimizer, self.net.parameters(), value_at(cfg.lr, 0, 1), cfg.max_grad_norm
        )
        plain = PlainActorCritic.of(self.net)
        self.plain = plain and PlainPPO(plain, self.descent, cfg.clip_value, cfg.value_coef)
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
            return self.plain.net.sample(self._normal(obs), self.rng)
        with torch.no_grad():
            output = self.net.acting(self._normal(obs))
            return self.head.sample(output, self.generator).cpu().numpy()

    def observe(self, transition: Transition) -> None:
        """Add one vector step to the rollout."""
        self.rollout.add(transition)

    def update(self, clock: Clock) -> dict[str, float]:
        """Learn from the rollout once it is full."""
        if not self.rollout.full:
            return {}
        cfg = self.cfg
        lr, clip, entropy_coef = (
            value_at(v, clock.frame, clock.max_frame) for v in (cfg.lr, cfg.clip, cfg.entropy_coef)
        )
        batch, entropy, explained = self._batch()
        parts = self._learn(batch, lr, clip, entropy_coef)
        if self.obs_moments is not None:
            # Only now: the rollout was acted upon, and learned from, with the statistics before it.
            self.obs_moments.add(self.rollout.obs[:-1].flatten(0, 1).numpy())
        self.rollout.clear()
        values = (*summary(parts, clip), entropy, explained, lr, clip, entropy_coef)
        return dict(zip(self.metrics, values, strict=True))

    def _learn(self, batch: Batch, lr: float, clip: float, entropy_coef: float) -> list[Parts]:
        """Take a step for each minibatch of each epoch."""
        cfg = self.cfg
        parts: list[Parts] = []
        for _ in range(cfg.epochs):
            for minibatch in self._minibatches(batch):
                part = self._step(minibatch, lr, clip, entropy_coef)
                self.opt_step += 1
                parts.append(part)
            if cfg.target_kl is not None and kl_estimate(parts[-1].log_ratio) > cfg.target_kl:
                break
        return parts

    def _step(self, batch: Batch, lr: float, clip: float, entropy_coef: float) -> Parts:
        """Take a step for one minibatch."""
        if self.plain is not None:
            return Parts(*self.plain.step(batch, lr, clip, entropy_coef))
        cfg = self.cfg
        output, value = self.net(batch.obs)
        loss, parts = ppo_loss(
            self.head, output, value, batch, clip, cfg.clip_value, cfg.value_coef, entropy_coef
        )
        self.descent.step(loss, lr)
        return parts

    def _batch(self) -> tuple[Batch, float, float]:
        """Return the rollout with advantages, the policy's entropy, the explained variance."""
        rollout, cfg = self.rollout, self.cfg
        horizon, copies = rollout.reward.shape
        if self.reward_scaler is not None:
            rollout.reward[:] = self.reward_scaler(rollout.reward, rollout.ended)
        obs = self._tensor(rollout.obs.numpy()).flatten(0, 1)
        if obs.dim() == 4:  # images: moved once, not for every minibatch
            obs = obs.contiguous(memory_format=torch.channels_last)
        output, value = in_chunks(self.net, obs)
        cut_values = None
        if rollout.cut_at:
            cut = in_chunks(self.net, self._tensor(np.stack(rollout.cut_obs)))[1]
            cut_values = cut.cpu().numpy()
        values = value.cpu().numpy().reshape(horizon + 1, copies)
        advantage = rollout.advantages(values, cut_values, cfg.gamma, cfg.lam)
        target = advantage + values[:-1]
        size = horizon * copies
        action = rollout.action.to(self.device).flatten(0, 1)
        with torch.no_grad():
            log_prob = self.head.log_prob(output[:size], action)
            entropy = self.head.entropy(output[:size]).mean().item()
        batch = Batch(
            obs[:size],
            action,
            log_prob,
            torch.from_numpy(advantage).to(self.device).flatten(),
            torch.from_numpy(target).to(self.device).flatten(),
            value[:size],
        )
        return batch, entropy, explained_variance(values[:-1], target)

    def _minibatches(self, batch: Batch) -> Iterator[Batch]:
        """Yield every sample once, in random minibatches, shuffled and normalised in one go."""
        size = self.cfg.minibatch_size
        order = torch.randperm(len(batch.advantage), generator=self.generator, device=self.device)
        shuffled = Batch(*(rows(x, order) for x in batch))
        if self.cfg.normalise_advantage:
            advantage = shuffled.advantage.view(-1, size)
            std, mean = torch.std_mean(advantage, 1, keepdim=True)
            shuffled = shuffled._replace(advantage=((advantage - mean) / (std + 1e-8)).flatten())
        yield from map(Batch, *(x.split(size) for x in shuffled))

    def play(
        self, obs: Array, memory: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Array, Tensor | None]:
        """Choose the likeliest actions, or sample them with `generator`."""
        with torch.no_grad():
            output = self.net.acting(self._normal(obs))
            action = (
                self.head.mode(output) if generator is None else self.head.sample(output, generator)
            )
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


def kl_estimate(log_ratio: Tensor) -> float:
    """Estimate KL(old ‖ new) = E[r - 1 - log r] from samples of the old policy.

    Schulman's low-variance estimate, http://joschu.net/blog/kl-approx.html
    """
    return (log_ratio.exp() - 1 - log_ratio).mean().item()


def summary(parts: list[Parts], clip: float) -> tuple[float, float, float, float]:
    """Return the mean losses, the KL divergence and the share of ratios beyond the clip."""
    log_ratio = torch.cat([part.log_ratio for part in parts])
    clipped = (log_ratio.exp() - 1).abs() > clip
    return (
        torch.stack([part.policy for part in parts]).mean().item(),
        torch.stack([part.value for part in parts]).mean().item(),
        kl_estimate(log_ratio),
        clipped.to(torch.float32).mean().item(),
    )
