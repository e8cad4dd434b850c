"""PPO with a memory, for what a single observation does not show (Schulman et al., 2017).

`PPO` in `ppo.py` with a recurrent layer in its networks. What is different, all of it below:

- The memory is carried from step to step and over the end of a rollout, and is blank at the start
  of each episode.
- A minibatch is whole sequences of `horizon` steps of some copies, run from the memory with which
  they were acted on, blanked where an episode starts; gradients flow back to the sequence's start.
- The value of a truncated episode's last observation is taken with the memory of that episode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
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
from rlhydra.agent.ppo import PPO, Batch, Parts, PPOConfig, kl_estimate, ppo_loss, summary
from rlhydra.clock import Clock
from rlhydra.config import EnvConfig
from rlhydra.env.environment import Transition
from rlhydra.memory.rollout import Rollout, explained_variance
from rlhydra.net.head import Head
from rlhydra.net.moments import Moments, RewardScaler
from rlhydra.net.recurrent import RecurrentActorCritic, unroll
from rlhydra.schedule import value_at
from rlhydra.schema import ConfigError, Positive


@dataclass(frozen=True)
class RecurrentPPOConfig(PPOConfig):
    """Settings of recurrent PPO: those of PPO and the recurrent layer."""

    core: Literal["lstm", "gru"]
    core_size: Annotated[int, Positive]

    def check(self, env: EnvConfig) -> None:
        """Raise ConfigError where minibatches are not whole sequences that fill a rollout."""
        copies, rest = divmod(self.minibatch_size, self.horizon)
        if rest or not copies or env.num_envs % copies:
            raise ConfigError(
                "agent.minibatch_size",
                f"{self.minibatch_size} is not the horizon, {self.horizon}, times a divisor of "
                f"num_envs = {env.num_envs}; minibatches are whole sequences",
            )


class Sequences(NamedTuple):
    """Whole sequences of B copies, and what `Batch` says of their T · B steps."""

    obs: Tensor  # (T, B, ...)
    memory: Tensor  # (K, B, H), before the first step
    starts: Tensor  # (T, B), where an episode starts
    steps: Tensor  # (T, B, 4): old log-probability, advantage, target, old value
    action: Tensor  # (T, B, ...)


class RecurrentPPO(Agent):
    """Collects `horizon` steps of all copies, then learns from whole sequences of them."""

    metrics: ClassVar = PPO.metrics

    def __init__(
        self,
        cfg: RecurrentPPOConfig,
        obs_space: Box,
        action_space: Space[Any],
        num_envs: int,
        seed: np.random.SeedSequence,
        device: torch.device,
    ) -> None:
        super().__init__(obs_space, action_space, num_envs, seed, device)
        self.cfg = cfg
        self.net = RecurrentActorCritic(
            cfg.net, cfg.core, cfg.core_size, obs_space, action_space, cfg.initial_std
        ).to(device)
        self.head: Head = self.net.head
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
        # Before the next step, and before the rollout's first: blank where an episode starts.
        self.memory = self.net.blank(num_envs).to(device)
        self.first_memory = self.memory

    def act(self, obs: Array) -> Array:
        """Sample an action for each copy, and remember."""
        if self.rollout.size == 0:
            self.first_memory = self.memory
        with torch.no_grad():
            output, _, self.memory = self.net(self._tensor(obs).unsqueeze(0), self.memory)
            return self.head.sample(output[0], self.generator).cpu().numpy()

    def observe(self, transition: Transition) -> None:
        """Add one vector step to the rollout; forget the episodes that ended with it."""
        self.rollout.add(transition)
        ended = transition.terminated | transition.truncated
        if ended.any():
            self.memory = self.memory * ~torch.from_numpy(ended).to(self.device).unsqueeze(-1)

    def update(self, clock: Clock) -> dict[str, float]:
        """Learn from the rollout once it is full."""
        if not self.rollout.full:
            return {}
        cfg = self.cfg
        lr, clip, entropy_coef = (
            value_at(v, clock.frame, clock.max_frame) for v in (cfg.lr, cfg.clip, cfg.entropy_coef)
        )
        sequences, entropy, explained = self._sequences()
        parts = self._learn(sequences, lr, clip, entropy_coef)
        if self.obs_moments is not None:
            self.obs_moments.add(self.rollout.obs[:-1].flatten(0, 1).numpy())
        self.rollout.clear()
        values = (*summary(parts, clip), entropy, explained, lr, clip, entropy_coef)
        return dict(zip(self.metrics, values, strict=True))

    def _sequences(self) -> tuple[Sequences, float, float]:
        """Return the rollout with advantages, the policy's entropy, the explained variance."""
        rollout, cfg = self.rollout, self.cfg
        if self.reward_scaler is not None:
            rollout.reward[:] = self.reward_scaler(rollout.reward, rollout.ended)
        obs = self._tensor(rollout.obs.numpy())
        # The last row continues its episode, ended or not: it is the true successor.
        starts = torch.zeros(obs.shape[:2], dtype=torch.bool, device=self.device)
        starts[1:-1] = torch.from_numpy(rollout.ended[:-1]).to(self.device)
        action = rollout.action.to(self.device)
        with torch.no_grad():
            output, value, memories = unroll(self.net, obs, self.first_memory, starts)
            cut_values = self._cut_values(memories)
            log_prob = self.head.log_prob(output[:-1].flatten(0, 1), action.flatten(0, 1))
            entropy = self.head.entropy(output[:-1].flatten(0, 1)).mean().item()
        values = value.cpu().numpy()
        advantage = rollout.advantages(values, cut_values, cfg.gamma, cfg.lam)
        target = advantage + values[:-1]
        computed = (torch.from_numpy(x).to(self.device) for x in (advantage, target))
        steps = torch.stack([log_prob.view_as(value[:-1]), *computed, value[:-1]], -1)
        sequences = Sequences(obs[:-1], self.first_memory, starts[:-1], steps, action)
        return sequences, entropy, explained_variance(values[:-1], target)

    def _cut_values(self, memories: dict[int, Tensor]) -> Array | None:
        """Return the values of truncated episodes' last observations, from their own memory."""
        rollout = self.rollout
        if not rollout.cut_at:
            return None
        obs = self._tensor(np.stack(rollout.cut_obs)).unsqueeze(0)
        memory = torch.stack([memories[t + 1][:, copy] for t, copy in rollout.cut_at], 1)
        return self.net(obs, memory)[1][0].cpu().numpy()

    def _learn(
        self, sequences: Sequences, lr: float, clip: float, entropy_coef: float
    ) -> list[Parts]:
        """Take a step for each minibatch of each epoch."""
        cfg = self.cfg
        parts: list[Parts] = []
        for _ in range(cfg.epochs):
            for minibatch in self._minibatches(sequences):
                output, value, _ = unroll(
                    self.net, minibatch.obs, minibatch.memory, minibatch.starts
                )
                log_prob, advantage, target, old_value = minibatch.steps.flatten(0, 1).unbind(-1)
                if cfg.normalise_advantage:
                    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                action = minibatch.action.flatten(0, 1)
                loss, part = ppo_loss(
                    self.head,
                    output.flatten(0, 1),
                    value.flatten(),
                    Batch(minibatch.obs, action, log_prob, advantage, target, old_value),
                    clip,
                    cfg.clip_value,
                    cfg.value_coef,
                    entropy_coef,
                )
                self.descent.step(loss, lr)
                self.opt_step += 1
                parts.append(part)
            if cfg.target_kl is not None and kl_estimate(parts[-1].log_ratio) > cfg.target_kl:
                break
        return parts

    def _minibatches(self, sequences: Sequences) -> Iterator[Sequences]:
        """Yield the sequences of every copy once, of some copies at a time."""
        order = torch.randperm(self.num_envs, generator=self.generator, device=self.device)
        for copies in order.split(self.cfg.minibatch_size // self.cfg.horizon):
            yield Sequences(*(x.index_select(1, copies) for x in sequences))

    def play(
        self, obs: Array, memory: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Array, Tensor | None]:
        """Choose the likeliest actions, or sample them with `generator`; return the memory too."""
        head = self.head
        if memory is None:
            memory = self.net.blank(len(obs)).to(self.device)
        with torch.no_grad():
            output, _, memory = self.net(self._tensor(obs).unsqueeze(0), memory)
            chosen = output[0]
            action = head.mode(chosen) if generator is None else head.sample(chosen, generator)
        return action.cpu().numpy(), memory

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
        """Drop the begun rollout, and what the network remembers."""
        self.rollout.clear()
        self.memory = torch.zeros_like(self.memory)
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
            "memory": self.memory,
            "first_memory": self.first_memory,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.load_weights(state)
        self.load_streams(state)
        self.descent.load(state["descent"])
        self.rollout.load(state["rollout"])
        load_into(self.reward_scaler, state["reward_scaler"])
        self.memory = state["memory"].to(self.device)
        self.first_memory = state["first_memory"].to(self.device)
