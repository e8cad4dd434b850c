"""Proximal policy optimisation (Schulman et al., 2017, https://arxiv.org/abs/1707.06347).

Maximises eq. 9, L = E[ min(rₜ Âₜ, clip(rₜ, 1 - ε, 1 + ε) Âₜ) - c₁ (V - Vᵗᵃʳᵍ)² + c₂ S ], rₜ = π(a|s) / π_old(a|s),
over several epochs of minibatches of each rollout; Â is the generalised advantage (Schulman et al., 2016).

Deviations from the paper, with their reasons:
- A truncated episode bootstraps from the value of its true last observation, as it did not end by itself
  (Pardo et al., 2018); the original code treats it as terminated.
- Advantages are normalised in each minibatch, gradients clipped by their norm, weights initialised orthogonally
  (as in the authors' code; Huang et al., 2022, give the effects).
- The value loss is ½ (V - Vᵗᵃʳᵍ)², so `value_coef` is twice the paper's c₁; its clipping is off by default,
  which Andrychowicz et al. (2021) found better.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box
from torch import Tensor

from rlhydra.agent.agent import (
    Agent,
    Array,
    load_into,
    load_network,
    optimizer_for,
    set_lr,
    state_of,
)
from rlhydra.clock import Clock
from rlhydra.config import (
    AgentConfig,
    EnvConfig,
    NetConfig,
    OptimizerConfig,
    Scheduled,
)
from rlhydra.env.environment import Transition
from rlhydra.memory.rollout import Rollout, gae
from rlhydra.net.actor_critic import ActorCritic, in_chunks
from rlhydra.net.head import Head
from rlhydra.net.moments import Moments, RewardScaler
from rlhydra.schedule import value_at
from rlhydra.schema import ConfigError, Fraction, NonNegative, Positive


@dataclass(frozen=True)
class PPOConfig(AgentConfig):
    """Settings of PPO."""

    actions: ClassVar = ("discrete", "multidiscrete", "box")

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


def ppo_loss(
    net: ActorCritic,
    batch: Batch,
    clip: float,
    clip_value: float | None,
    value_coef: float,
    entropy_coef: float,
) -> tuple[Tensor, Tensor]:
    """Return the loss (eq. 9, negated) and its parts, detached: PPO.metrics without the schedules."""
    output, value = net(batch.obs)
    log_prob, entropy = net.head.log_prob_entropy(output, batch.action)
    log_ratio = log_prob - batch.log_prob
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    policy_loss = -torch.minimum(ratio * batch.advantage, clipped * batch.advantage).mean()
    error = (value - batch.target).square()
    if clip_value is not None:
        near_old = batch.value + (value - batch.value).clamp(-clip_value, clip_value)
        error = torch.maximum(error, (near_old - batch.target).square())
    value_loss = 0.5 * error.mean()
    entropy_mean = entropy.mean()
    loss = policy_loss + value_coef * value_loss - entropy_coef * entropy_mean
    with torch.no_grad():
        # Schulman's low-variance estimate of KL(old || new), http://joschu.net/blog/kl-approx.html
        kl = (ratio - 1 - log_ratio).mean()
        clip_fraction = (clipped != ratio).to(torch.float32).mean()
        parts = torch.stack([policy_loss, value_loss, entropy_mean, kl, clip_fraction])
    return loss, parts


class PPO(Agent):
    """Collects `horizon` steps of all copies, then learns from them for `epochs` passes."""

    metrics: ClassVar = (
        "loss/policy",
        "loss/value",
        "policy/entropy",
        "policy/kl",
        "policy/clip_fraction",
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
        self.net = ActorCritic(cfg.net, obs_space, action_space).to(device)
        self.head: Head = self.net.head
        self.parameters = list(self.net.parameters())
        self.optimizer = optimizer_for(cfg.optimizer, self.parameters, value_at(cfg.lr, 0, 1))
        self.rollout = Rollout(
            cfg.horizon,
            num_envs,
            obs_space.shape,
            torch.float32 if cfg.normalise_obs else torch.from_numpy(obs_space.low).dtype,
            self.head.action_shape,
            self.head.action_dtype,
        )
        self.obs_moments = Moments(obs_space.shape) if cfg.normalise_obs else None
        self.reward_scaler = RewardScaler(num_envs, cfg.gamma) if cfg.normalise_reward else None

    def act(self, obs: Array) -> Array:
        """Sample an action for each copy."""
        if self.obs_moments is not None:
            self.obs_moments.add(obs)
        with torch.no_grad():
            output = self.net.policy(self._tensor(obs))
            return self.head.sample(output, self.generator).cpu().numpy()

    def observe(self, transition: Transition) -> None:
        """Add one vector step to the rollout, normalised as it was acted on."""
        if self.reward_scaler is not None:
            ended = transition.terminated | transition.truncated
            transition = transition._replace(reward=self.reward_scaler(transition.reward, ended))
        if self.obs_moments is not None:
            transition = transition._replace(
                obs=self.obs_moments.normalise(transition.obs),
                next_obs=self.obs_moments.normalise(transition.next_obs),
            )
        self.rollout.add(transition)

    def update(self, clock: Clock) -> dict[str, float]:
        """Learn from the rollout once it is full."""
        if not self.rollout.full:
            return {}
        cfg = self.cfg
        lr, clip, entropy_coef = (
            value_at(v, clock.frame, clock.max_frame) for v in (cfg.lr, cfg.clip, cfg.entropy_coef)
        )
        set_lr(self.optimizer, lr)
        batch, explained = self._batch()
        parts = self._learn(batch, clip, entropy_coef)
        self.rollout.clear()
        return dict(zip(self.metrics, (*parts, explained, lr, clip, entropy_coef), strict=True))

    def _learn(self, batch: Batch, clip: float, entropy_coef: float) -> list[float]:
        """Take a step for each minibatch of each epoch; return the mean parts of the loss."""
        cfg = self.cfg
        parts: list[Tensor] = []
        for _ in range(cfg.epochs):
            for minibatch in self._minibatches(batch):
                loss, part = ppo_loss(
                    self.net, minibatch, clip, cfg.clip_value, cfg.value_coef, entropy_coef
                )
                self.step(loss, self.parameters, self.optimizer, cfg.max_grad_norm)
                parts.append(part)
            if cfg.target_kl is not None and parts[-1][3] > cfg.target_kl:
                break
        return torch.stack(parts).mean(0).tolist()

    def _batch(self) -> tuple[Batch, float]:
        """Return the whole rollout with its advantages, and how much of the returns the values explain."""
        rollout, cfg = self.rollout, self.cfg
        horizon, copies = rollout.reward.shape
        obs = rollout.obs.to(self.device).flatten(0, 1)
        output, value = in_chunks(self.net, obs)
        values = value.cpu().numpy().reshape(horizon + 1, copies)
        next_values = values[1:].copy()
        if rollout.cut_at:
            (_, cut) = in_chunks(self.net, rollout.cut_observations().to(self.device))
            steps, cut_copies = np.array(rollout.cut_at).T
            next_values[steps, cut_copies] = cut.cpu().numpy()
        values = values[:-1]
        advantage = gae(
            rollout.reward,
            values,
            next_values,
            rollout.terminated,
            rollout.ended,
            cfg.gamma,
            cfg.lam,
        )
        size = horizon * copies
        action = rollout.action.to(self.device).flatten(0, 1)
        log_prob, _ = self.head.log_prob_entropy(output[:size], action)
        target = advantage + values
        explained = _explained_variance(values, target)
        return Batch(
            obs[:size],
            action,
            log_prob.detach(),
            torch.from_numpy(advantage.reshape(size)).to(self.device),
            torch.from_numpy(target.reshape(size)).to(self.device),
            value[:size],
        ), explained

    def _minibatches(self, batch: Batch) -> Iterator[Batch]:
        """Yield every sample once, in random minibatches."""
        numbers = torch.stack(batch[2:], 1)  # one gather for all four
        order = torch.randperm(len(numbers), generator=self.generator, device=self.device)
        for index in order.split(self.cfg.minibatch_size):
            log_prob, advantage, target, value = numbers.index_select(0, index).unbind(1)
            if self.cfg.normalise_advantage:
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            obs, action = (x.index_select(0, index) for x in (batch.obs, batch.action))
            yield Batch(obs, action, log_prob, advantage, target, value)

    def play(
        self, obs: Array, memory: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Array, Tensor | None]:
        """Choose the likeliest actions, or sample them with `generator`."""
        with torch.no_grad():
            output = self.net.policy(self._tensor(obs))
            action = (
                self.head.mode(output) if generator is None else self.head.sample(output, generator)
            )
        return action.cpu().numpy(), memory

    def _tensor(self, obs: Array) -> Tensor:
        if self.obs_moments is not None:
            obs = self.obs_moments.normalise(obs)
        return torch.from_numpy(obs).to(self.device)

    def weights(self) -> dict[str, Any]:
        """Return the network and the observations' statistics."""
        return {"net": self.net.state_dict(), "obs_moments": state_of(self.obs_moments)}

    def load_weights(self, weights: dict[str, Any]) -> None:
        """Take over what `weights` returned."""
        load_network(self.net, weights["net"])
        load_into(self.obs_moments, weights["obs_moments"])

    def state(self) -> dict[str, Any]:
        """Return everything that exact resume needs."""
        return {
            **self.weights(),
            **self.streams(),
            "optimizer": self.optimizer.state_dict(),
            "rollout": self.rollout.state(),
            "reward_scaler": state_of(self.reward_scaler),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.load_weights(state)
        self.load_streams(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.rollout.load(state["rollout"])
        load_into(self.reward_scaler, state["reward_scaler"])


def _explained_variance(values: Array, targets: Array) -> float:
    """Return 1 - Var(target - value) / Var(target), or 0 where the targets do not vary."""
    variance = float(np.var(targets))
    return 1.0 - float(np.var(targets - values)) / variance if variance > 0 else 0.0
