"""Twin delayed deep deterministic policy gradient (Fujimoto et al., 2018, https://arxiv.org/abs/1802.09477).

Minimises Σ_i (Q_i(sₜ, aₜ) - y)², and every `policy_delay` times maximises Q₁(s, μ(s)), where

    y = rₜ + γ min_i Q⁻_i(sₜ₊₁, clip(μ⁻(sₜ₊₁) + clip(ε, -c, c), -1, 1)),  ε ~ N(0, σ)

and Q⁻, μ⁻ are older copies of critics and policy. With one critic, no delay and no noise ε it is
deep deterministic policy gradient (Lillicrap et al., 2016, https://arxiv.org/abs/1509.02971).

Deviations from the papers, with their reasons:
- A truncated episode bootstraps from the value of its true last observation, as it did not end by
  itself (Pardo et al., 2018).
- DDPG explores with Gaussian noise too, which Fujimoto et al. found no worse than correlated noise.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box
from torch import Tensor, nn

from rlhydra.agent.agent import Agent, Array, Shareable, copy_of, load_network
from rlhydra.agent.descent import Descent
from rlhydra.agent.offpolicy import (
    check_bounded,
    crossed,
    flush_denormals,
    on_device,
    random_actions,
)
from rlhydra.clock import Clock
from rlhydra.config import AgentConfig, EnvConfig, NetConfig, OptimizerConfig, Scheduled
from rlhydra.env.environment import Transition
from rlhydra.memory.replay import Batch, Replay
from rlhydra.net.critics import Critics, follow
from rlhydra.net.trunk import Network, network
from rlhydra.schedule import value_at
from rlhydra.schema import ConfigError, Fraction, NonNegative, Positive, Range


@dataclass(frozen=True)
class TD3Config(AgentConfig):
    """Settings of twin delayed deep deterministic policy gradient."""

    actions: ClassVar = ("box",)
    sharing: ClassVar = "live"

    gamma: Annotated[float, Fraction]
    lr: Annotated[Scheduled, NonNegative]
    optimizer: OptimizerConfig
    max_grad_norm: Annotated[float, Positive] | None
    batch_size: Annotated[int, Positive]
    buffer_size: Annotated[int, Positive]  # transitions
    learning_starts: Annotated[int, NonNegative]  # frames of random actions before
    train_frequency: Annotated[int, Positive]  # frames
    updates_per_train: Annotated[int, Positive]
    policy_delay: Annotated[int, Positive]  # updates of the critics for one of policy and targets
    tau: Annotated[float, Range(above=0, high=1)]  # share of the way to the online networks
    n_step: Annotated[int, Positive]
    exploration_noise: Annotated[Scheduled, NonNegative]  # deviation; actions are in [-1, 1]
    target_noise: Annotated[float, NonNegative]  # deviation
    target_noise_clip: Annotated[float, NonNegative]
    critics: Annotated[int, Positive]
    critic_hidden: tuple[Annotated[int, Positive], ...] | None  # null: as net.hidden
    net: NetConfig

    def check(self, env: EnvConfig) -> None:
        """Raise ConfigError where the memory cannot hold a vector step, or for a shared trunk."""
        if self.buffer_size < env.num_envs:
            problem = f"expected at least num_envs = {env.num_envs}, got {self.buffer_size}"
            raise ConfigError("agent.buffer_size", problem)
        if self.net.shared:
            problem = "policy and critics learn from different losses, each on a trunk; use false"
            raise ConfigError("agent.net.shared", problem)


def smoothed(action: Tensor, noise: Tensor, limit: float) -> Tensor:
    """Return clip(a + clip(ε, -limit, limit), -1, 1) (eq. 14)."""
    return (action + noise.clamp(-limit, limit)).clamp_(-1, 1)


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Return Σ_i mean (Q_i - y)² of values (n, B) and targets (B,)."""
    return (q - target).square().mean(-1).sum()


class TD3(Agent):
    """Acts by its deterministic policy and Gaussian noise; learns from a replay memory."""

    metrics: ClassVar = (
        "loss/policy",
        "loss/value",
        "policy/value",
        "schedule/exploration_noise",
        "schedule/lr",
    )

    def __init__(
        self,
        cfg: TD3Config,
        obs_space: Box,
        action_space: Space[Any],
        num_envs: int,
        seed: np.random.SeedSequence,
        device: torch.device,
    ) -> None:
        super().__init__(obs_space, action_space, num_envs, seed, device)
        check_bounded(action_space)
        flush_denormals()
        assert isinstance(action_space, Box)
        self.cfg = cfg
        actions = action_space.shape[0]
        body = network(cfg.net, obs_space, actions, 0.01)
        self.policy = Network(*body, nn.Tanh()).to(device)
        self.critics = Critics(
            cfg.net,
            cfg.net.hidden if cfg.critic_hidden is None else cfg.critic_hidden,
            cfg.critics,
            obs_space,
            action_size=actions,
            outputs=1,
        ).to(device)
        self.target_policy = copy.deepcopy(self.policy).requires_grad_(False)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        lr = value_at(cfg.lr, 0, 1)
        self.policy_descent = Descent(
            cfg.optimizer, self.policy.parameters(), lr, cfg.max_grad_norm
        )
        self.critic_descent = Descent(
            cfg.optimizer, self.critics.parameters(), lr, cfg.max_grad_norm
        )
        self.replay = Replay(
            cfg.buffer_size,
            num_envs,
            obs_space,
            action_space,
            n_step=cfg.n_step,
            gamma=cfg.gamma,
            generator=self.rng,
        )
        self.frame = 0
        self.noise = value_at(cfg.exploration_noise, 0, 1)  # of the next actions
        self._policy_loss = 0.0  # at its last update

    def act(self, obs: Array) -> Array:
        """Choose an action for each copy: uniformly at first, then the policy's with noise."""
        if self.frame < self.cfg.learning_starts:
            return random_actions(self.action_space, self.num_envs, self.rng)
        return self._noisy(obs, self.noise, self.generator)

    def observe(self, transition: Transition) -> None:
        """Add one vector step to the memory."""
        self.replay.add(transition)

    def update(self, clock: Clock) -> dict[str, float]:
        """Learn from as many batches as are due."""
        cfg = self.cfg
        self.frame = clock.frame
        self.noise = value_at(cfg.exploration_noise, clock.frame, clock.max_frame)
        if clock.frame < cfg.learning_starts or not len(self.replay):
            return {}
        updates = crossed(clock.own, self.num_envs, cfg.train_frequency) * cfg.updates_per_train
        if not updates:
            return {}
        lr = value_at(cfg.lr, clock.frame, clock.max_frame)
        rows = [self._learn(lr) for _ in range(updates)]
        means = (sum(column) / updates for column in zip(*rows, strict=True))
        return dict(zip(self.metrics, (*means, self.noise, lr), strict=True))

    def _learn(self, lr: float) -> tuple[float, ...]:
        """Take one step with the critics and, every `policy_delay` times, with the policy."""
        cfg = self.cfg
        batch = on_device(self.replay.sample(cfg.batch_size), self.device)
        target = self._target(batch)
        q = self.critics(batch.obs, batch.action).squeeze(-1)
        loss = critic_loss(q, target)
        self.critic_descent.step(loss, lr)
        self.opt_step += 1
        if self.opt_step % cfg.policy_delay == 0:
            self._policy_loss = self._learn_policy(batch, lr)
            follow(self.target_policy, self.policy, cfg.tau)
            follow(self.target_critics, self.critics, cfg.tau)
        return self._policy_loss, loss.item(), q.detach().mean().item()

    def _target(self, batch: Batch) -> Tensor:
        """Return the targets (B,) of the critics."""
        cfg = self.cfg
        with torch.no_grad():
            action = self.target_policy(batch.next_obs)
            if cfg.target_noise:
                noise = torch.empty_like(action)
                noise.normal_(0, cfg.target_noise, generator=self.generator)
                action = smoothed(action, noise, cfg.target_noise_clip)
            next_value = self.target_critics(batch.next_obs, action).squeeze(-1).amin(0)
            return torch.addcmul(batch.reward, batch.discount, next_value)

    def _learn_policy(self, batch: Batch, lr: float) -> float:
        # Nothing is differentiated by the critics' parameters: the descent asks for the policy's.
        loss = -self.critics(batch.obs, self.policy(batch.obs), members=1).mean()
        self.policy_descent.step(loss, lr)
        return loss.item()

    def play(
        self, obs: Array, memory: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Array, Tensor | None]:
        """Choose the policy's actions, with `generator` as noisy as in training."""
        return self._noisy(obs, 0.0 if generator is None else self.noise, generator), memory

    def _noisy(self, obs: Array, deviation: float, generator: torch.Generator | None) -> Array:
        with torch.no_grad():
            action = self.policy(torch.from_numpy(obs).to(self.device))
            if deviation:
                noise = torch.empty_like(action).normal_(0, deviation, generator=generator)
                action = action.add_(noise).clamp_(-1, 1)
            return action.cpu().numpy()

    def weights(self) -> dict[str, Any]:
        """Return the networks."""
        return {"policy": copy_of(self.policy), "critics": copy_of(self.critics)}

    def load_weights(self, weights: dict[str, Any]) -> None:
        """Take over what `weights` returned, for the target networks as well."""
        for net, target, name in (
            (self.policy, self.target_policy, "policy"),
            (self.critics, self.target_critics, "critics"),
        ):
            load_network(net, weights[name])
            load_network(target, weights[name])

    def cut(self) -> None:
        """End the running episodes in the memory."""
        self.replay.cut()

    def shared(self) -> Sequence[Shareable | nn.Module]:
        """Return what sessions can have in common."""
        descents = self.critic_descent, self.policy_descent
        return *descents, self.target_critics, self.target_policy

    def state(self) -> dict[str, Any]:
        """Return everything that exact resume needs."""
        return {
            **self.weights(),
            **self.streams(),
            "target_policy": copy_of(self.target_policy),
            "target_critics": copy_of(self.target_critics),
            "policy_descent": self.policy_descent.state(),
            "critic_descent": self.critic_descent.state(),
            "replay": self.replay.state(),
            "frame": self.frame,
            "noise": self.noise,
            "policy_loss": self._policy_loss,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.load_weights(state)
        self.load_streams(state)
        load_network(self.target_policy, state["target_policy"])
        load_network(self.target_critics, state["target_critics"])
        self.policy_descent.load(state["policy_descent"])
        self.critic_descent.load(state["critic_descent"])
        self.replay.load(state["replay"])
        self.frame, self.noise = state["frame"], state["noise"]
        self._policy_loss = state["policy_loss"]
