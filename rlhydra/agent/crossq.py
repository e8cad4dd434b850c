"""CrossQ (Bhatt et al., 2024, https://arxiv.org/abs/1902.05605): soft actor-critic without targets.

The critics have batch renormalisation, and take (s, a) and (s', a') in one joint batch, so that
they are normalised by the statistics of both: what target networks were for is no longer needed.

    Q(s, a), Q(s', a') = Q([s; s'], [a; a'])
    ½ Σ_i (Q_i(s, a) - r - γ E_π[ min_i Q_i(s', a') - α log π(a'|s') ])²

where Q(s', a') is a constant to the gradient. The policy learns every `policy_delay` updates, from
critics that are normalised by their running statistics; it is batch-renormalised itself.

Deviations from the paper, with their reasons:
- Discrete actions are summed over, as Christodoulou (2019) does for soft actor-critic; the joint
  batch then holds states alone.
- A truncated episode bootstraps from the value of its true last observation, as it did not end by
  itself (Pardo et al., 2018).
- The networks' widths are a setting: the paper's critics of 2048 units are slow on a processor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from rlhydra.agent.agent import Agent, Array, copy_of, load_network
from rlhydra.agent.descent import Descent
from rlhydra.agent.offpolicy import (
    check_bounded,
    crossed,
    flush_denormals,
    on_device,
    random_actions,
)
from rlhydra.agent.temperature import Temperature, default_target_entropy
from rlhydra.clock import Clock
from rlhydra.config import AgentConfig, EnvConfig, NetConfig, OptimizerConfig, Scheduled
from rlhydra.env.environment import Transition
from rlhydra.memory.replay import Batch, Replay
from rlhydra.net.batch_renorm import BatchRenorm, renormed_network
from rlhydra.net.critics import Critics, taken
from rlhydra.net.stochastic import policy_for, soft_value
from rlhydra.schedule import value_at
from rlhydra.schema import ConfigError, Fraction, NonNegative, Positive, Range


@dataclass(frozen=True)
class CrossQConfig(AgentConfig):
    """Settings of CrossQ."""

    actions: ClassVar = ("discrete", "box")

    gamma: Annotated[float, Fraction]
    lr: Annotated[Scheduled, NonNegative]
    optimizer: OptimizerConfig
    max_grad_norm: Annotated[float, Positive] | None
    batch_size: Annotated[int, Range(low=2)]
    buffer_size: Annotated[int, Positive]  # transitions
    learning_starts: Annotated[int, NonNegative]  # frames of random actions before
    train_frequency: Annotated[int, Positive]  # frames
    updates_per_train: Annotated[int, Positive]
    policy_delay: Annotated[int, Positive]  # updates of the critics for one of the policy
    n_step: Annotated[int, Positive]
    renorm_momentum: Annotated[float, Fraction]  # share of a batch in the running statistics
    renorm_warmup: Annotated[int, NonNegative]  # batches that are normalised plainly
    entropy_coef: Annotated[float, NonNegative] | None  # the temperature alpha; null: learned
    initial_entropy_coef: Annotated[float, Positive]  # where it is learned
    target_entropy: float | None  # nats; null: -(numbers of an action), or the fraction below
    target_entropy_fraction: Annotated[float, Fraction]  # of log(number of discrete actions)
    critics: Annotated[int, Positive]
    critic_hidden: tuple[Annotated[int, Positive], ...] | None  # null: as net.hidden
    net: NetConfig

    def check(self, env: EnvConfig) -> None:
        """Raise ConfigError where the memory cannot hold a vector step, or for other networks."""
        if self.buffer_size < env.num_envs:
            problem = f"expected at least num_envs = {env.num_envs}, got {self.buffer_size}"
            raise ConfigError("agent.buffer_size", problem)
        if self.net.shared:
            problem = "policy and critics learn from different losses, each on a trunk; use false"
            raise ConfigError("agent.net.shared", problem)
        if self.net.layer_norm:
            raise ConfigError("agent.net.layer_norm", "CrossQ renormalises batches; use false")


def joint_values(critics: Critics, batch: Batch, next_action: Tensor | None) -> tuple[Tensor, ...]:
    """Return Q(s, a) (n, B) and Q(s', ·) (n, B, A), the latter detached, from one joint pass."""
    obs = torch.cat([batch.obs, batch.next_obs])
    if next_action is None:
        q, next_q = critics(obs, None).chunk(2, 1)
        return taken(q, batch.action), next_q.detach()
    q, next_q = critics(obs, torch.cat([batch.action, next_action])).chunk(2, 1)
    return q.squeeze(-1), next_q.detach()


class CrossQ(Agent):
    """Acts by its stochastic policy, and learns from transitions drawn from a replay memory."""

    metrics: ClassVar = (
        "loss/policy",
        "loss/value",
        "policy/value",
        "policy/entropy",
        "schedule/entropy_coef",
        "schedule/lr",
    )

    def __init__(
        self,
        cfg: CrossQConfig,
        obs_space: Box,
        action_space: Space[Any],
        num_envs: int,
        seed: np.random.SeedSequence,
        device: torch.device,
    ) -> None:
        super().__init__(obs_space, action_space, num_envs, seed, device)
        check_bounded(action_space)
        flush_denormals()
        self.cfg = cfg
        renorm = cfg.renorm_momentum, cfg.renorm_warmup
        self.policy = policy_for(
            action_space, lambda outputs: renormed_network(cfg.net, obs_space, outputs, *renorm)
        ).to(device)
        discrete = isinstance(action_space, Discrete)
        self.critics = Critics(
            cfg.net,
            cfg.net.hidden if cfg.critic_hidden is None else cfg.critic_hidden,
            cfg.critics,
            obs_space,
            action_size=0 if discrete else math.prod(action_space.shape or ()),
            outputs=int(action_space.n) if discrete else 1,
            normaliser=lambda members, width: BatchRenorm(members, width, *renorm),
        ).to(device)
        self.policy.eval()
        self.critics.eval()
        lr = value_at(cfg.lr, 0, 1)
        self.policy_descent = Descent(
            cfg.optimizer, self.policy.parameters(), lr, cfg.max_grad_norm
        )
        self.critic_descent = Descent(
            cfg.optimizer, self.critics.parameters(), lr, cfg.max_grad_norm
        )
        target_entropy = cfg.target_entropy
        if target_entropy is None:
            target_entropy = default_target_entropy(action_space, cfg.target_entropy_fraction)
        self.temperature = Temperature(
            cfg.entropy_coef, cfg.initial_entropy_coef, target_entropy, cfg.optimizer, device
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
        self._policy_metrics = (0.0, 0.0)  # of its last update

    def act(self, obs: Array) -> Array:
        """Sample an action for each copy: uniformly at first, then by the policy."""
        if self.frame < self.cfg.learning_starts:
            return random_actions(self.action_space, self.num_envs, self.rng)
        return self._sample(obs, self.generator)

    def observe(self, transition: Transition) -> None:
        """Add one vector step to the memory."""
        self.replay.add(transition)

    def update(self, clock: Clock) -> dict[str, float]:
        """Learn from as many batches as are due."""
        cfg = self.cfg
        self.frame = clock.frame
        if clock.frame < cfg.learning_starts or not len(self.replay):
            return {}
        updates = crossed(clock.own, self.num_envs, cfg.train_frequency) * cfg.updates_per_train
        if not updates:
            return {}
        lr = value_at(cfg.lr, clock.frame, clock.max_frame)
        rows = [self._learn(lr) for _ in range(updates)]
        means = (sum(column) / updates for column in zip(*rows, strict=True))
        return dict(zip(self.metrics, (*means, lr), strict=True))

    def _learn(self, lr: float) -> tuple[float, ...]:
        """Take one step with the critics and, every `policy_delay` times, with the policy."""
        batch = on_device(self.replay.sample(self.cfg.batch_size), self.device)
        alpha = self.temperature.value
        value_loss, value = self._learn_critics(batch, alpha, lr)
        self.opt_step += 1
        if self.opt_step % self.cfg.policy_delay == 0:
            self._policy_metrics = self._learn_policy(batch, alpha, lr)
        policy_loss, entropy = self._policy_metrics
        return policy_loss, value_loss, value, entropy, alpha.item()

    def _learn_critics(self, batch: Batch, alpha: Tensor, lr: float) -> tuple[float, float]:
        with torch.no_grad():
            choices = self.policy.choices(batch.next_obs, self.generator)
        self.critics.train()
        q, next_q = joint_values(self.critics, batch, choices.action)
        self.critics.eval()
        next_value = soft_value(choices, next_q, alpha)
        target = torch.addcmul(batch.reward, batch.discount, next_value)
        loss = 0.5 * (q - target).square().mean(-1).sum()
        self.critic_descent.step(loss, lr)
        return loss.item(), q.detach().mean().item()

    def _learn_policy(self, batch: Batch, alpha: Tensor, lr: float) -> tuple[float, float]:
        self.policy.train()
        choices = self.policy.choices(batch.obs, self.generator)
        self.policy.eval()
        # Nothing is differentiated by the critics' parameters: the descent asks for the policy's.
        with torch.set_grad_enabled(choices.action is not None):
            q = self.critics(batch.obs, choices.action)
        loss = -soft_value(choices, q, alpha).mean()
        self.policy_descent.step(loss, lr)
        entropy = choices.entropy().mean().item()
        self.temperature.adapt(entropy, lr)
        return loss.item(), entropy

    def play(
        self, obs: Array, memory: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Array, Tensor | None]:
        """Choose the policy's modes, or sample it with `generator`."""
        return self._sample(obs, generator), memory

    def _sample(self, obs: Array, generator: torch.Generator | None) -> Array:
        with torch.no_grad():
            states = torch.from_numpy(obs).to(self.device)
            if generator is None:
                return self.policy.mode(states).cpu().numpy()
            return self.policy.sample(states, generator).cpu().numpy()

    def weights(self) -> dict[str, Any]:
        """Return the networks, their running statistics, and the temperature."""
        return {
            "policy": copy_of(self.policy),
            "critics": copy_of(self.critics),
            "temperature": self.temperature.value.item(),
        }

    def load_weights(self, weights: dict[str, Any]) -> None:
        """Take over what `weights` returned."""
        load_network(self.policy, weights["policy"])
        load_network(self.critics, weights["critics"])
        self.temperature.set(weights["temperature"])

    def cut(self) -> None:
        """End the running episodes in the memory."""
        self.replay.cut()

    def state(self) -> dict[str, Any]:
        """Return everything that exact resume needs."""
        return {
            **self.weights(),
            **self.streams(),
            "policy_descent": self.policy_descent.state(),
            "critic_descent": self.critic_descent.state(),
            "temperature_state": self.temperature.state(),
            "replay": self.replay.state(),
            "frame": self.frame,
            "policy_metrics": list(self._policy_metrics),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.load_weights(state)
        self.load_streams(state)
        self.policy_descent.load(state["policy_descent"])
        self.critic_descent.load(state["critic_descent"])
        self.temperature.load(state["temperature_state"])
        self.replay.load(state["replay"])
        self.frame = state["frame"]
        self._policy_metrics = (state["policy_metrics"][0], state["policy_metrics"][1])
