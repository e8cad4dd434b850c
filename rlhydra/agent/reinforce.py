"""REINFORCE (Williams, 1992, https://doi.org/10.1007/BF00992696): Monte Carlo policy gradient.

One step along the gradient of several whole episodes:

    L = E[ -log π(aₜ|sₜ) (Gₜ - b(sₜ)) + c₁ ½ (Gₜ - b(sₜ))² - c₂ S[π](sₜ) ],   Gₜ = Σₖ γᵏ rₜ₊ₖ

where the baseline b is a learned value (`baseline: value`), the batch's mean return (`mean`), or 0.

Deviations from the paper, with their reasons:
- The factor γᵗ of the discounted objective's gradient is left out, as everywhere since: it would
  silence the later part of long episodes.
- Copies play on while others finish, so an episode may have begun under the policy before the last
  step. With `env.num_envs=1 agent.episodes=1` it is the paper's algorithm.
- A truncated episode's return is completed with the baseline's value of its last observation, where
  there is a learned one: it did not end by itself (Pardo et al., 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box
from torch import Tensor

from rlhydra.agent.a2c import a2c_loss
from rlhydra.agent.agent import Agent, Array, copy_of, load_into, load_network, state_of
from rlhydra.agent.descent import Descent
from rlhydra.clock import Clock
from rlhydra.config import AgentConfig, NetConfig, OptimizerConfig, Scheduled
from rlhydra.env.environment import Transition
from rlhydra.memory.episodes import Episode, Episodes
from rlhydra.memory.rollout import explained_variance
from rlhydra.net.actor_critic import ActorCritic
from rlhydra.net.head import Head
from rlhydra.net.moments import Moments
from rlhydra.net.plain_actor_critic import PlainActorCritic
from rlhydra.schedule import value_at
from rlhydra.schema import Fraction, NonNegative, Positive


@dataclass(frozen=True)
class ReinforceConfig(AgentConfig):
    """Settings of REINFORCE."""

    actions: ClassVar = ("discrete", "multidiscrete", "box")

    gamma: Annotated[float, Fraction]
    lr: Annotated[Scheduled, NonNegative]
    optimizer: OptimizerConfig
    episodes: Annotated[int, Positive]  # whole episodes to a step
    baseline: Literal["value", "mean"] | None
    value_coef: Annotated[float, NonNegative]
    entropy_coef: Annotated[Scheduled, NonNegative]
    max_grad_norm: Annotated[float, Positive] | None
    normalise_advantage: bool
    normalise_obs: bool
    initial_std: Annotated[float, Positive]  # of continuous actions, whose range is [-1, 1]
    net: NetConfig


def returns(rewards: Array, last_value: float, gamma: float) -> Array:
    """Return Gₜ = rₜ + γ Gₜ₊₁ (T,) of one episode, where G_T is `last_value`."""
    discounted = np.empty(len(rewards), np.float32)
    running = last_value
    for t in range(len(rewards) - 1, -1, -1):
        running = float(rewards[t]) + gamma * running
        discounted[t] = running
    return discounted


class Reinforce(Agent):
    """Plays whole episodes, then takes one step along their gradient."""

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
        cfg: ReinforceConfig,
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
        self.memory = Episodes(num_envs)
        self.finished: list[Episode] = []
        self.obs_moments = Moments(obs_space.shape) if cfg.normalise_obs else None

    def act(self, obs: Array) -> Array:
        """Sample an action for each copy."""
        if self.plain is not None:
            return self.plain.sample(self._normal(obs), self.rng)
        with torch.no_grad():
            output = self.net.acting(self._normal(obs))
            return self.head.sample(output, self.generator).cpu().numpy()

    def observe(self, transition: Transition) -> None:
        """Add one vector step to the running episodes."""
        self.finished += self.memory.add(transition)

    def update(self, clock: Clock) -> dict[str, float]:
        """Take a step once enough episodes have ended."""
        if len(self.finished) < self.cfg.episodes:
            return {}
        lr, entropy_coef = (
            value_at(v, clock.frame, clock.max_frame) for v in (self.cfg.lr, self.cfg.entropy_coef)
        )
        parts = self._learn(self.finished, lr, entropy_coef)
        if self.obs_moments is not None:
            self.obs_moments.add(np.concatenate([e.obs[:-1] for e in self.finished]))
        self.finished = []
        return dict(zip(self.metrics, (*parts, lr, entropy_coef), strict=True))

    def _learn(self, episodes: list[Episode], lr: float, entropy_coef: float) -> tuple[float, ...]:
        """Take the step; return its losses, the entropy and the explained variance."""
        cfg, head = self.cfg, self.head
        obs = self._tensor(np.concatenate([e.obs[:-1] for e in episodes]))
        action = torch.from_numpy(np.concatenate([e.action for e in episodes])).to(self.device)
        output, value = self.net(obs)
        if cfg.baseline != "value":
            value = torch.zeros_like(value)
        target = torch.from_numpy(self._returns(episodes)).to(self.device)
        advantage = target - value.detach()
        if cfg.baseline == "mean":
            advantage = advantage - target.mean()
        if cfg.normalise_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        entropy = head.entropy(output)
        loss, policy_loss, value_loss = a2c_loss(
            head.log_prob(output, action),
            entropy,
            value,
            advantage,
            target,
            cfg.value_coef if cfg.baseline == "value" else 0.0,
            entropy_coef,
        )
        self.descent.step(loss, lr)
        self.opt_step += 1
        explained = explained_variance(value.detach().cpu().numpy(), target.cpu().numpy())
        return policy_loss.item(), value_loss.item(), entropy.mean().item(), explained

    def _returns(self, episodes: list[Episode]) -> Array:
        """Return the discounted returns of all steps of the episodes."""
        last = np.zeros(len(episodes), np.float32)
        if self.cfg.baseline == "value":
            with torch.no_grad():
                value = self.net(self._tensor(np.stack([e.obs[-1] for e in episodes])))[1]
            last = value.cpu().numpy() * [not e.terminated for e in episodes]
        ends = zip(episodes, last, strict=True)
        return np.concatenate([returns(e.reward, float(v), self.cfg.gamma) for e, v in ends])

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
        return torch.from_numpy(self._normal(obs)).to(self.device)

    def weights(self) -> dict[str, Any]:
        """Return the networks and the observations' statistics."""
        return {"net": copy_of(self.net), "obs_moments": state_of(self.obs_moments)}

    def load_weights(self, weights: dict[str, Any]) -> None:
        """Take over what `weights` returned."""
        load_network(self.net, weights["net"])
        load_into(self.obs_moments, weights["obs_moments"])

    def cut(self) -> None:
        """Drop the running episodes."""
        self.memory.clear()

    def state(self) -> dict[str, Any]:
        """Return everything that exact resume needs."""
        return {
            **self.weights(),
            **self.streams(),
            "descent": self.descent.state(),
            "memory": self.memory.state(),
            "finished": [list(episode) for episode in self.finished],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.load_weights(state)
        self.load_streams(state)
        self.descent.load(state["descent"])
        self.memory.load(state["memory"])
        self.finished = [Episode(*episode) for episode in state["finished"]]
