"""PPO: its loss against an independent computation, its loop, learning, exact resume."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor
from torch.distributions import Categorical, Normal

from rlhydra.agent.agent import Diverged
from rlhydra.agent.descent import Descent
from rlhydra.agent.ppo import PPO, Batch, kl_estimate, ppo_loss
from rlhydra.clock import Clock
from rlhydra.config import NetConfig, OptimizerConfig
from rlhydra.net.actor_critic import ActorCritic
from rlhydra.net.head import head_for
from rlhydra.schema import ConfigError
from tests.identity import Loop, on_identity

NET = NetConfig("auto", (16,), "tanh", layer_norm=False, shared=False, init="default")
SPACES = {
    "discrete": Discrete(3),
    "multidiscrete": MultiDiscrete([3, 2]),
    "box": Box(-1, 1, (2,), np.float32),
}
FAST = ("agent.horizon=32", "agent.lr=1e-2", "agent.gamma=0.5", "agent.net.hidden=[32]")


def some_batch(net: ActorCritic, size: int = 40) -> Batch:
    """Return a batch whose ratios lie within and beyond the clip, on both sides."""
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(size, 5, generator=generator)
    with torch.no_grad():
        output, value = net(obs)
        action = net.head.sample(output, generator)
        log_prob = net.head.log_prob(output, action)
    old = log_prob + 0.3 * torch.randn(size, generator=generator)
    advantage, target = torch.randn(2, size, generator=generator)
    return Batch(obs, action, old, advantage, target, value + 0.5 * torch.randn(size))


def reference_loss(net: ActorCritic, batch: Batch, clip: float, clip_value: float | None) -> Tensor:
    """Return the loss as paper and torch.distributions write it, c₁ = 0.25 and c₂ = 0.01."""
    output, value = net(batch.obs)
    if batch.action.is_floating_point():
        normal = Normal(output, net.head.log_std.exp())  # type: ignore[union-attr]
        log_prob, entropy = normal.log_prob(batch.action).sum(-1), normal.entropy().sum(-1)
    else:
        pieces = output.split([3, 2] if batch.action.ndim == 2 else [3], -1)
        actions = batch.action.reshape(len(output), -1).unbind(-1)
        parts = [Categorical(logits=piece) for piece in pieces]
        log_prob = sum(p.log_prob(a) for p, a in zip(parts, actions, strict=True))
        entropy = sum(p.entropy() for p in parts)
    ratio = torch.exp(log_prob - batch.log_prob)
    clipped = ratio.clamp(1 - clip, 1 + clip)
    policy = torch.min(ratio * batch.advantage, clipped * batch.advantage).mean()
    errors = (value - batch.target) ** 2
    if clip_value is not None:
        near = batch.value + (value - batch.value).clamp(-clip_value, clip_value)
        errors = torch.max(errors, (near - batch.target) ** 2)
    return -(policy - 0.25 * errors.mean() + 0.01 * entropy.mean())


class TestLoss:
    @pytest.mark.parametrize("kind", SPACES)
    @pytest.mark.parametrize("shared", [False, True])
    @pytest.mark.parametrize("clip_value", [None, 0.2])
    def test_value_and_gradient(self, kind: str, shared: bool, clip_value: float | None) -> None:
        torch.manual_seed(0)
        cfg = dataclasses.replace(NET, shared=shared)
        net = ActorCritic(cfg, Box(-1, 1, (5,), np.float32), SPACES[kind])
        batch = some_batch(net)
        loss, _ = ppo_loss(
            net.head, *net(batch.obs), batch, 0.2, clip_value, value_coef=0.5, entropy_coef=0.01
        )
        expected = reference_loss(net, batch, 0.2, clip_value)
        torch.testing.assert_close(loss, expected)
        parameters = list(net.parameters())
        for mine, theirs in zip(
            torch.autograd.grad(loss, parameters),
            torch.autograd.grad(expected, parameters),
            strict=True,
        ):
            torch.testing.assert_close(mine, theirs)

    def test_by_hand(self) -> None:
        """One state, two actions of equal probability; ratios 2, 2, ½, ½; ε = ¼."""

        batch = Batch(
            obs=torch.zeros(4, 5),
            action=torch.tensor([0, 1, 0, 1]),
            log_prob=torch.tensor([0.25, 0.25, 1.0, 1.0]).log(),
            advantage=torch.tensor([4.0, -4.0, 4.0, -4.0]),
            target=torch.tensor([1.0, 0.0, 3.0, 2.0]),
            value=torch.zeros(4),
        )
        output, value = torch.zeros(4, 2), torch.tensor([1.0, 2.0, 3.0, 4.0])
        head = head_for(Discrete(2))
        loss, parts = ppo_loss(
            head, output, value, batch, 0.25, None, value_coef=2.0, entropy_coef=0.1
        )
        # clipped to 1.25 · 4; as it is, 2 · -4; as it is, ½ · 4; clipped to ¾ · -4
        assert parts.policy.item() == -(5 - 8 + 2 - 3) / 4
        assert parts.value.item() == 0.5 * (0 + 4 + 0 + 4) / 4
        assert loss.item() == pytest.approx(1 + 2 * 1 - 0.1 * math.log(2))
        ratios = np.array([2, 2, 0.5, 0.5])
        assert kl_estimate(parts.log_ratio) == pytest.approx((ratios - 1 - np.log(ratios)).mean())


def vector_of(loop: Loop) -> Tensor:
    agent = loop.agent
    assert isinstance(agent, PPO)
    return agent.descent.vector.detach().clone()


class TestDescent:
    def make(self, max_grad_norm: float | None, name: Any = "SGD") -> tuple[Descent, Any]:
        layer = torch.nn.Linear(3, 2)
        torch.nn.init.constant_(layer.weight, 1.0)
        cfg = OptimizerConfig(name, {})
        return Descent(cfg, layer.parameters(), 0.1, max_grad_norm), layer

    def test_gradients_are_clipped_by_their_common_norm(self) -> None:
        descent, layer = self.make(0.5)
        # d(loss)/d(bias) = (3, 4), of norm 5, and nothing else
        descent.step((layer.bias * torch.tensor([3.0, 4.0])).sum(), lr=1.0)
        before = layer.bias.detach().clone()
        descent.step((layer.bias * torch.tensor([3.0, 4.0])).sum(), lr=1.0)
        torch.testing.assert_close(before - layer.bias, torch.tensor([0.3, 0.4]))
        assert (layer.weight == 1).all()
        descent.step((layer.bias * torch.tensor([0.3, 0.0])).sum(), lr=1.0)  # short enough
        torch.testing.assert_close(before - layer.bias, torch.tensor([0.6, 0.4]))

    @pytest.mark.parametrize("poison", [float("nan"), float("inf")])
    def test_nothing_changes_when_it_diverges(self, poison: float) -> None:
        descent, layer = self.make(None, "Adam")
        descent.step(layer.weight.square().sum(), lr=0.1)
        before, moments = descent.vector.detach().clone(), descent.state()
        with pytest.raises(Diverged, match="norm of its gradient"):
            descent.step(poison * layer.weight.sum(), lr=0.1)
        assert torch.equal(before, descent.vector)
        assert all(torch.equal(moments[name], value) for name, value in descent.state().items())

    @pytest.mark.parametrize("name", ["Adam", "RMSprop", "SGD", "AdamW", "Adagrad", "NAdam"])
    def test_equals_torch_on_separate_parameters(self, name: Any) -> None:
        torch.manual_seed(0)
        descent, layer = self.make(None, name)
        other = torch.nn.Linear(3, 2)
        other.load_state_dict(layer.state_dict())
        optimizer = getattr(torch.optim, name)(other.parameters(), lr=0.05)
        for _ in range(3):
            x = torch.randn(4, 3)
            descent.step(layer(x).square().mean(), lr=0.05)
            optimizer.zero_grad()
            other(x).square().mean().backward()
            optimizer.step()
        torch.testing.assert_close(layer.weight, other.weight)
        torch.testing.assert_close(layer.bias, other.bias)


class TestLoop:
    def test_learns_when_the_rollout_is_full(self) -> None:
        loop = Loop(*on_identity("Discrete", 10_000), *FAST)
        learned = [bool(loop.step()) for _ in range(96)]
        assert [i for i, now in enumerate(learned) if now] == [31, 63, 95]
        assert loop.agent.opt_step == 3 * 4  # one minibatch of 256, four epochs
        assert tuple(loop.learned[0]) == loop.agent.metrics
        assert all(math.isfinite(value) for row in loop.learned for value in row.values())

    def test_schedules_follow_the_frames(self) -> None:
        loop = Loop(
            *on_identity("Discrete", 1024),
            *FAST,
            "agent.lr={start: 1e-2, end: 0}",
            "agent.clip={start: 0.2, end: 0.1}",
            "agent.entropy_coef={start: 0.4, end: 0, until: 512}",
        )
        loop.run()
        rows = loop.learned
        assert [row["schedule/lr"] for row in rows] == pytest.approx([7.5e-3, 5e-3, 2.5e-3, 0])
        assert [row["schedule/clip"] for row in rows] == pytest.approx([0.175, 0.15, 0.125, 0.1])
        assert [row["schedule/entropy_coef"] for row in rows] == pytest.approx([0.2, 0, 0, 0])
        assert loop.agent.descent._optimizer.param_groups[0]["lr"] == 0  # type: ignore[attr-defined]

    def test_target_kl_ends_the_epochs(self) -> None:
        far = ("agent.lr=0.1", "agent.epochs=10", "agent.minibatch_size=128")
        free = Loop(*on_identity("Discrete", 10_000), *FAST, *far)
        held = Loop(*on_identity("Discrete", 10_000), *FAST, *far, "agent.target_kl=0.01")
        free.run(256)
        held.run(256)
        assert free.agent.opt_step == 20
        assert held.agent.opt_step in (2, 4)  # it ends with the epoch, not in it

    def test_minibatches_take_each_sample_once(self) -> None:
        loop = Loop(*on_identity("Discrete", 10_000), *FAST, "agent.minibatch_size=64")
        agent = loop.agent
        assert isinstance(agent, PPO)
        numbers = torch.arange(256.0)
        batch = Batch(numbers, numbers, numbers, numbers, numbers, numbers)
        pieces = list(agent._minibatches(batch))
        assert [len(piece.obs) for piece in pieces] == [64] * 4
        assert torch.cat([piece.obs for piece in pieces]).sort().values.equal(numbers)
        for piece in pieces:
            assert piece.obs.equal(piece.target)  # rows stay together
            normal = (piece.obs - piece.obs.mean()) / piece.obs.std()
            torch.testing.assert_close(piece.advantage, normal)

    def test_observations_are_normalised_as_they_were_acted_on(self) -> None:
        """The first epoch's ratios are 1: the rollout was recomputed under the same statistics."""
        loop = Loop(
            *on_identity("Box", 10_000),
            *FAST,
            "agent.normalise_obs=true",
            "agent.normalise_reward=true",
            "agent.epochs=1",
            "agent.minibatch_size=256",
        )
        loop.run(1024)
        kls = [row["policy/kl"] for row in loop.learned]
        assert kls == pytest.approx([0] * 4, abs=1e-6)
        moments = loop.agent.obs_moments  # type: ignore[attr-defined]
        assert moments.count == 1024
        assert moments.variance[0] == pytest.approx(1 / 3, abs=0.05)

    def test_playing_changes_nothing(self) -> None:
        one, two = (Loop(*on_identity("Discrete", 10_000), *FAST) for _ in range(2))
        for step in range(100):
            one.step()
            two.step()
            two.agent.play(two.obs, None, None)
            two.agent.play(two.obs, None, torch.Generator().manual_seed(step))
        assert torch.equal(vector_of(one), vector_of(two))
        assert one.returns == two.returns

    def test_a_minibatch_that_does_not_divide_says_so(self) -> None:
        with pytest.raises(ConfigError, match="does not divide num_envs x horizon = 256"):
            Loop(*on_identity("Discrete", 10_000), *FAST, "agent.minibatch_size=100")


@pytest.mark.parametrize("kind", ["Discrete", "MultiDiscrete", "Box"])
@pytest.mark.parametrize("shared", ["false", "true"])
def test_learns_identity(kind: str, shared: str) -> None:
    loop = Loop(*on_identity(kind, 8_000), *FAST, f"agent.net.shared={shared}")
    # Of 10. At random: 3.3, 4.2, and less than 0; the deviation that remains costs the box some.
    assert loop.run() > (8.5 if kind == "Box" else 9.3)
    action, _ = loop.agent.play(loop.obs, None, None)
    seen = loop.obs
    if kind == "Box":
        np.testing.assert_allclose(action, seen, atol=0.3)
    else:
        np.testing.assert_array_equal(action.reshape(8, -1)[:, 0], seen[:, :3].argmax(1))


def test_same_seed_same_course() -> None:
    one, two, other = (Loop(*on_identity("Box", 10_000), *FAST, seed=seed) for seed in (1, 1, 2))
    for loop in (one, two, other):
        loop.run(1024)
    assert torch.equal(vector_of(one), vector_of(two))
    assert one.learned == two.learned
    assert not torch.equal(vector_of(one), vector_of(other))


@pytest.mark.parametrize("kind", ["Discrete", "Box"])
def test_goes_on_exactly_from_the_middle_of_a_rollout(kind: str) -> None:
    settings = (
        *on_identity(kind, 10_000),
        *FAST,
        "agent.normalise_obs=true",
        "agent.normalise_reward=true",
    )
    whole, half = Loop(*settings), Loop(*settings)
    half.run(8 * 45)  # 13 steps into the second rollout, truncations in it
    resumed = Loop(*settings)
    resumed.agent.load(half.agent.state())
    resumed.env = half.env
    resumed.obs, resumed.clock = half.obs, Clock(10_000, half.clock.frame)
    resumed.run(8 * 55)
    whole.run(8 * 100)
    assert torch.equal(vector_of(whole), vector_of(resumed))
    assert whole.learned[1:] == resumed.learned
    assert whole.agent.opt_step == resumed.agent.opt_step


def test_weights_of_another_network_are_refused_by_name() -> None:
    small = Loop(*on_identity("Discrete", 10_000), *FAST)
    large = Loop(*on_identity("Discrete", 10_000), *FAST, "agent.net.hidden=[64]")
    with pytest.raises(ConfigError, match=r"actor\.0\.weight \(64, 3\) -> \(32, 3\)"):
        small.agent.load_weights(large.agent.weights())
    with pytest.raises(ConfigError, match="normalisation"):
        normalising = Loop(*on_identity("Discrete", 10_000), *FAST, "agent.normalise_obs=true")
        small.agent.load_weights(normalising.agent.weights())
