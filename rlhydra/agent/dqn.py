"""Deep Q-learning and the improvements that Rainbow combines, each switched by a setting.

- Deep Q-network (Mnih et al., 2015, https://doi.org/10.1038/nature14236): replay, target network.
- `double`: the online network chooses the action that the target network values (van Hasselt et
  al., 2016, https://arxiv.org/abs/1509.06461).
- `dueling`: Q = V + A - mean A (Wang et al., 2016, https://arxiv.org/abs/1511.06581).
- `prioritised`: transitions are drawn by their errors (Schaul et al., 2016,
  https://arxiv.org/abs/1511.05952).
- `n_step` returns, not corrected for the actions that were explored, as in Rainbow.
- `noisy` layers (Fortunato et al., 2018, https://arxiv.org/abs/1706.10295).
- `distributional`: C51 (Bellemare et al., 2017, https://arxiv.org/abs/1707.06887).
- All of them: Rainbow (Hessel et al., 2018, https://arxiv.org/abs/1710.02298).

Minimises E[ L(yₜ - Q(sₜ, aₜ)) ] with yₜ = Σ_(k<n) γᵏ rₜ₊ₖ + γⁿ max_a Q⁻(sₜ₊ₙ, a), Q⁻ an older Q.

Deviations from the papers, with their reasons:
- A truncated episode bootstraps from the value of its true last observation, as it did not end by
  itself (Pardo et al., 2018).
- Errors are clipped as the derivative of the Huber loss, which is what Mnih et al. meant by it.
- Weights of prioritised replay are relative to the greatest of the whole memory (see `Replay`).
- With noisy layers the first frames, before learning starts, are random all the same, and each
  environment copy acts with noise of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import Space
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from rlhydra.agent.agent import Agent, Array, Shareable, copy_of, load_network
from rlhydra.agent.descent import Descent
from rlhydra.agent.distributional import distributional_targets, divergence, expectation, taken
from rlhydra.agent.offpolicy import crossed, flush_denormals, on_device
from rlhydra.agent.plain_q import PlainQ
from rlhydra.clock import Clock
from rlhydra.config import AgentConfig, EnvConfig, NetConfig, OptimizerConfig, Scheduled
from rlhydra.env.environment import Transition
from rlhydra.memory.replay import Batch, Priority, Replay
from rlhydra.net.perceptron import Perceptron
from rlhydra.net.q_network import QNetwork
from rlhydra.schedule import value_at
from rlhydra.schema import ConfigError, Fraction, NonNegative, Positive, Range


@dataclass(frozen=True)
class DQNConfig(AgentConfig):
    """Settings of deep Q-learning."""

    @dataclass(frozen=True)
    class Prioritised:
        """Settings of prioritised replay."""

        alpha: Annotated[float, Fraction]  # 0 draws uniformly, 1 in proportion to the errors
        beta: Annotated[Scheduled, Fraction]  # 1 corrects fully for not drawing uniformly
        epsilon: Annotated[float, Positive]  # added to the errors: none is never drawn

    @dataclass(frozen=True)
    class Distributional:
        """The atoms that carry a distribution of returns, as the learner sees rewards."""

        atoms: Annotated[int, Range(low=2)]
        v_min: float
        v_max: float

        def __post_init__(self) -> None:
            if self.v_min >= self.v_max:
                raise ValueError(f"v_min = {self.v_min:g} must be below v_max = {self.v_max:g}")

    actions: ClassVar = ("discrete",)
    sharing: ClassVar = "live"

    gamma: Annotated[float, Fraction]
    lr: Annotated[Scheduled, NonNegative]
    optimizer: OptimizerConfig
    loss: Literal["huber", "squared"]  # of errors of values; distributions have KL divergences
    max_grad_norm: Annotated[float, Positive] | None
    batch_size: Annotated[int, Positive]
    buffer_size: Annotated[int, Positive]  # transitions
    learning_starts: Annotated[int, NonNegative]  # frames of random actions before
    train_frequency: Annotated[int, Positive]  # frames
    updates_per_train: Annotated[int, Positive]
    target_update_frequency: Annotated[int, Positive]  # frames
    tau: Annotated[float, Range(above=0, high=1)]  # share of the way to the online network; 1: copy
    epsilon: Annotated[Scheduled, Fraction]  # share of random actions
    temperature: Annotated[Scheduled, Positive] | None  # Boltzmann exploration in the others
    eval_epsilon: Annotated[float, Fraction]  # share of random actions where evaluation samples
    double: bool
    dueling: bool
    n_step: Annotated[int, Positive]
    prioritised: Prioritised | None
    noisy: Annotated[float, Positive] | None  # initial deviation σ₀ of the dense layers' weights
    distributional: Distributional | None
    net: NetConfig

    def check(self, env: EnvConfig) -> None:
        """Raise ConfigError where the memory cannot hold a vector step, or a setting is idle."""
        if self.buffer_size < env.num_envs:
            raise ConfigError(
                "agent.buffer_size",
                f"expected at least num_envs = {env.num_envs}, got {self.buffer_size}",
            )
        if not self.net.shared:
            raise ConfigError("agent.net.shared", "a Q-network has one trunk; use true")


def q_targets(net: nn.Module, target_net: nn.Module, batch: Batch, double: bool) -> Tensor:
    """Return r + γ Q⁻(s', argmax_a Q(s', a)) (B,), where the argmax is Q⁻'s unless `double`."""
    values = target_net(batch.next_obs)
    best = taken(values, net(batch.next_obs).argmax(-1)) if double else values.amax(-1)
    return torch.addcmul(batch.reward, batch.discount, best)


def loss_of(error: Tensor, kind: str) -> Tensor:
    """Return ½ δ² of each error, or the Huber loss: |δ| - ½ beyond 1."""
    zero = torch.zeros_like(error)
    if kind == "huber":
        return F.huber_loss(error, zero, reduction="none")
    return 0.5 * error.square()


class DQN(Agent):
    """Acts greedily but for exploration, and learns from transitions drawn from a replay memory."""

    metrics: ClassVar = (
        "loss/value",
        "policy/value",
        "schedule/lr",
        "schedule/epsilon",
        "schedule/temperature",
        "schedule/beta",
    )

    def __init__(
        self,
        cfg: DQNConfig,
        obs_space: Box,
        action_space: Space[Any],
        num_envs: int,
        seed: np.random.SeedSequence,
        device: torch.device,
    ) -> None:
        super().__init__(obs_space, action_space, num_envs, seed, device)
        assert isinstance(action_space, Discrete)
        flush_denormals()
        self.cfg = cfg
        self._actions = int(action_space.n)
        spread = cfg.distributional
        self.net = QNetwork(
            cfg.net,
            obs_space,
            self._actions,
            dueling=cfg.dueling,
            noisy=cfg.noisy,
            atoms=None if spread is None else spread.atoms,
        ).to(device)
        self.target_net = copy.deepcopy(self.net).requires_grad_(False)
        self.support = (
            None
            if spread is None
            else torch.linspace(spread.v_min, spread.v_max, spread.atoms, device=device)
        )
        self.descent = Descent(
            cfg.optimizer, self.net.parameters(), value_at(cfg.lr, 0, 1), cfg.max_grad_norm
        )
        self.plain = None
        if self.support is None and Perceptron.fits(self.net.trunk) and not cfg.dueling:
            self.plain = PlainQ(self.net.trunk, self.target_net.trunk, self.descent)
        ranks = cfg.prioritised
        self.replay = Replay(
            cfg.buffer_size,
            num_envs,
            obs_space,
            action_space,
            n_step=cfg.n_step,
            gamma=cfg.gamma,
            priority=None if ranks is None else Priority(ranks.alpha, ranks.epsilon),
            generator=self.rng,
        )
        self.epsilon = 1.0  # of the next actions
        self.temperature: float | None = None

    def act(self, obs: Array) -> Array:
        """Choose each copy's best action, a random one with probability ε."""
        random = self.rng.random(self.num_envs) < self.epsilon
        count = np.count_nonzero(random)
        if count == self.num_envs:
            return self.rng.integers(self._actions, size=count)
        self.net.draw_noise(self.generator, self.num_envs)
        q = self._values(obs)
        if self.temperature is not None:
            q = q / self.temperature + self.rng.gumbel(size=q.shape)  # its argmax is a sample
        action = q.argmax(-1)
        if count:
            action[random] = self.rng.integers(self._actions, size=count)
        return action

    def observe(self, transition: Transition) -> None:
        """Add one vector step to the memory."""
        self.replay.add(transition)

    def update(self, clock: Clock) -> dict[str, float]:
        """Learn from as many batches as are due; let the target network follow."""
        cfg, frame = self.cfg, clock.frame
        if frame < cfg.learning_starts or not len(self.replay):
            return {}
        self.epsilon = value_at(cfg.epsilon, frame, clock.max_frame)
        if cfg.temperature is not None:
            self.temperature = value_at(cfg.temperature, frame, clock.max_frame)
        metrics: dict[str, float] = {}
        trainings = crossed(clock.own, self.num_envs, cfg.train_frequency)
        if trainings:
            metrics = self._train(trainings * cfg.updates_per_train, clock)
        if crossed(clock.own, self.num_envs, cfg.target_update_frequency):
            follow(self.target_net, self.net, cfg.tau)
        return metrics

    def _train(self, updates: int, clock: Clock) -> dict[str, float]:
        cfg = self.cfg
        lr = value_at(cfg.lr, clock.frame, clock.max_frame)
        beta = 0.0
        if cfg.prioritised is not None:
            beta = value_at(cfg.prioritised.beta, clock.frame, clock.max_frame)
        losses = values = 0.0
        for _ in range(updates):
            batch = self.replay.sample(cfg.batch_size, beta)
            error, loss, value = self._learn(batch, lr)
            self.opt_step += 1
            if cfg.prioritised is not None:
                self.replay.update_priorities(batch.index, error)
            losses += loss
            values += value
        measured = losses / updates, values / updates
        schedules = lr, self.epsilon, self.temperature or 0.0, beta
        return dict(zip(self.metrics, (*measured, *schedules), strict=True))

    def _learn(self, batch: Batch, lr: float) -> tuple[Array, float, float]:
        """Take a step; return the errors (B,), the mean loss, the mean value of the actions."""
        cfg, weighted = self.cfg, self.cfg.prioritised is not None
        if self.plain is not None:
            huber = cfg.loss == "huber"
            return self.plain.learn(batch, lr, double=cfg.double, huber=huber, weighted=weighted)
        batch = on_device(batch, self.device)
        error, value = self._errors(batch)
        losses = loss_of(error, cfg.loss) if self.support is None else error
        loss = (losses * batch.weight if weighted else losses).mean()
        self.descent.step(loss, lr)
        return error.detach().cpu().numpy(), loss.item(), value.item()

    def _errors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the errors (B,), and the mean value of the taken actions, without a gradient."""
        cfg, net, support = self.cfg, self.net, self.support
        with torch.no_grad():
            net.draw_noise(self.generator)
            self.target_net.draw_noise(self.generator)
            if support is None:
                target = q_targets(net, self.target_net, batch, cfg.double)
            else:
                target = distributional_targets(net, self.target_net, batch, support, cfg.double)
        net.draw_noise(self.generator)  # the choice of action has noise of its own
        output = taken(net(batch.obs), batch.action)
        if support is None:
            return output - target, output.detach().mean()
        return divergence(output, target), expectation(output.detach(), support).mean()

    def play(
        self, obs: Array, memory: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Array, Tensor | None]:
        """Choose the best actions, without noise; with `generator` random ones now and then."""
        self.net.drop_noise()
        action = self._values(obs).argmax(-1)
        if generator is not None:
            draw = torch.rand(2, len(action), generator=generator, device=self.device)
            random, other = draw.cpu().numpy()
            other = (other * self._actions).astype(np.int64)
            action = np.where(random < self.cfg.eval_epsilon, other, action)
        return action, memory

    def _values(self, obs: Array) -> Array:
        if self.plain is not None:
            return self.plain.net(obs)
        with torch.no_grad():
            q = self.net(torch.from_numpy(obs).to(self.device))
            if self.support is not None:
                q = expectation(q, self.support)
            return q.cpu().numpy()

    def weights(self) -> dict[str, Any]:
        """Return the online network."""
        return {"net": copy_of(self.net)}

    def load_weights(self, weights: dict[str, Any]) -> None:
        """Take over what `weights` returned, for the target network as well."""
        load_network(self.net, weights["net"])
        follow(self.target_net, self.net, 1.0)

    def cut(self) -> None:
        """End the running episodes in the memory."""
        self.replay.cut()

    def shared(self) -> Sequence[Shareable | nn.Module]:
        """Return what sessions can have in common."""
        return self.descent, self.target_net

    def state(self) -> dict[str, Any]:
        """Return everything that exact resume needs."""
        return {
            **self.weights(),
            **self.streams(),
            "target_net": copy_of(self.target_net),
            "descent": self.descent.state(),
            "replay": self.replay.state(),
            "epsilon": self.epsilon,
            "temperature": self.temperature,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.load_weights(state)
        self.load_streams(state)
        load_network(self.target_net, state["target_net"])
        self.descent.load(state["descent"])
        self.replay.load(state["replay"])
        self.epsilon, self.temperature = state["epsilon"], state["temperature"]


def follow(target: nn.Module, net: nn.Module, tau: float) -> None:
    """Move the parameters of `target` by the share `tau` of the way to those of `net`, in place."""
    with torch.no_grad():
        for old, new in zip(target.parameters(), net.parameters(), strict=True):
            if tau == 1:
                old.copy_(new)
            else:
                old.lerp_(new, tau)
