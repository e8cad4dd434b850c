"""Soft actor-critic: its policies, values and temperature by hand; learning; exact resume."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from rlhydra.agent.agent import Diverged
from rlhydra.agent.offpolicy import crossed
from rlhydra.agent.sac import SAC, critic_loss
from rlhydra.agent.temperature import Temperature, default_target_entropy
from rlhydra.config import NetConfig, OptimizerConfig
from rlhydra.memory.replay import Batch
from rlhydra.net.critics import Critics, follow, taken
from rlhydra.net.stochastic import Categorical, Choices, SquashedGaussian, soft_value
from rlhydra.schema import ConfigError
from tests.identity import Loop, on_identity
from tests.states import same

NET = NetConfig("auto", (16, 8), "relu", layer_norm=False, shared=False, init="default")
SPACE = Box(-1, 1, (3,), np.float32)
SMALL = ("agent.net.hidden=[32]", "agent.batch_size=64", "agent.gamma=0.0", "agent.lr=3e-3")
SHORT = (*SMALL, "agent.learning_starts=100", "agent.buffer_size=1000", "env.num_envs=1")


class Output(nn.Module):
    """A network whose output is given."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.output


def some_batch(size: int, actions: torch.Tensor) -> Batch:
    generator = torch.Generator().manual_seed(1)
    obs, next_obs = torch.randn(2, size, 3, generator=generator)
    reward = torch.arange(size, dtype=torch.float32)
    discount = torch.tensor([0.9] * (size - 1) + [0.0])
    return Batch(obs, actions, reward, next_obs, discount, torch.ones(size), np.arange(size))


class TestSquashedGaussian:
    def test_log_prob_is_that_of_the_transformed_distribution(self) -> None:
        torch.manual_seed(0)
        output = torch.randn(500, 4, dtype=torch.float64)
        policy = SquashedGaussian(Output(output))
        choices = policy.choices(torch.empty(0), torch.Generator().manual_seed(3))
        mean, log_std = output.chunk(2, -1)
        base = Independent(Normal(mean, log_std.clamp(max=2).exp()), 1)
        expected = TransformedDistribution(base, [TanhTransform(cache_size=1)])
        inside = (choices.action.abs() < 1 - 1e-9).all(-1)  # beyond, atanh loses digits
        torch.testing.assert_close(
            choices.log_prob.squeeze(-1)[inside],
            expected.log_prob(choices.action)[inside],
            rtol=1e-5,
            atol=1e-5,
        )
        assert (choices.prob == 1).all()

    def test_density_integrates_to_one(self) -> None:
        """E[1 / p(a)] over samples is the volume of (-1, 1)."""
        policy = SquashedGaussian(Output(torch.tensor([[0.3, 0.0]]).repeat(200_000, 1)))
        choices = policy.choices(torch.empty(0), torch.Generator().manual_seed(0))
        assert (-choices.log_prob).exp().mean().item() == pytest.approx(2, rel=0.05)

    def test_log_prob_is_finite_where_tanh_is_saturated(self) -> None:
        output = torch.tensor([[50.0, 5.0], [-50.0, -30.0], [0.0, 2.0]])
        policy = SquashedGaussian(Output(output))
        choices = policy.choices(torch.empty(0), torch.Generator().manual_seed(0))
        choices.log_prob.sum().backward()
        assert torch.isfinite(choices.log_prob).all()
        assert torch.isfinite(policy.net.output.grad).all()

    def test_acting_is_within_bounds_and_its_mode_the_tanh_of_the_mean(self) -> None:
        policy = SquashedGaussian(Output(torch.tensor([[0.5, 1.0], [-3.0, 1.0]])))
        with torch.no_grad():
            action = policy.sample(torch.empty(0), torch.Generator().manual_seed(0))
        assert action.shape == (2, 1) and (action.abs() <= 1).all()
        torch.testing.assert_close(
            policy.mode(torch.empty(0)), torch.tensor([[0.5], [-3.0]]).tanh()
        )


class TestValues:
    def test_soft_value_of_a_sample(self) -> None:
        choices = Choices(torch.zeros(2, 1), torch.ones(2, 1), torch.tensor([[-1.0], [0.5]]))
        q = torch.tensor([[[3.0], [4.0]], [[2.0], [5.0]]])
        value = soft_value(choices, q, torch.tensor(0.1))
        torch.testing.assert_close(value, torch.tensor([2 + 0.1, 4 - 0.05]))

    def test_soft_value_of_discrete_actions_is_their_expectation(self) -> None:
        probs = np.array([[0.2, 0.3, 0.5], [0.1, 0.8, 0.1]])
        policy = Categorical(Output(torch.tensor(np.log(probs) + 7)))
        choices = policy.choices(torch.empty(0), torch.Generator())
        q = np.array([[[1.0, 5, 3], [0, 0, 2]], [[2.0, 4, 3], [1, -1, 0]]])
        expected = [
            sum(p * (min(q[0, b, a], q[1, b, a]) - 0.5 * math.log(p)) for a, p in enumerate(row))
            for b, row in enumerate(probs)
        ]
        value = soft_value(choices, torch.tensor(q), torch.tensor(0.5))
        np.testing.assert_allclose(value.detach().numpy(), expected)
        entropy = [-sum(p * math.log(p) for p in row) for row in probs]
        np.testing.assert_allclose(choices.entropy().detach().numpy(), entropy)

    def test_critic_loss_sums_over_critics(self) -> None:
        q = torch.tensor([[1.0, 2.0], [0.0, 4.0]])
        loss = critic_loss(q, torch.tensor([1.0, 1.0]))
        assert loss.item() == pytest.approx(0.5 * ((0 + 1) / 2 + (1 + 9) / 2))

    @pytest.mark.parametrize("kind", ["Box", "Discrete"])
    def test_critics_learn_towards_the_target(self, kind: str) -> None:
        """The gradient step is that of the written-out loss with the target critics' values."""
        loop = Loop("agent=sac", *on_identity(kind, 1000), *SHORT, "agent.entropy_coef=0.2")
        agent = loop.agent
        assert isinstance(agent, SAC)
        size = agent.obs_space.shape[0]
        actions = torch.rand(4, 1) if kind == "Box" else torch.tensor([0, 1, 2, 1])
        batch = some_batch(4, actions)
        batch = batch._replace(obs=batch.obs[:, :size], next_obs=batch.next_obs[:, :size])
        follow(agent.target_critics, Critics(*critic_arguments(agent)), 1.0)
        generator = copy.copy(agent.generator.get_state())
        alpha = agent.temperature.value
        with torch.no_grad():
            choices = agent.policy.choices(batch.next_obs, agent.generator)
            next_q = agent.target_critics(batch.next_obs, choices.action).min(0).values
            value = (choices.prob * (next_q - 0.2 * choices.log_prob)).sum(1)
            q = agent._q_taken(batch)
            expected = 0.5 * (q - (batch.reward + batch.discount * value)).square().mean(1).sum()
        agent.generator.set_state(generator)
        loss, _ = agent._learn_critics(batch, alpha, 1e-3)
        assert loss == pytest.approx(expected.item(), rel=1e-5)

    def test_policy_step_leaves_the_critics_alone(self) -> None:
        loop = Loop("agent=sac", *on_identity("Box", 1000), *SHORT)
        agent = loop.agent
        assert isinstance(agent, SAC)
        before, policy = copy.deepcopy(agent.critics), copy.deepcopy(agent.policy)
        batch = some_batch(4, torch.rand(4, 1))
        batch = batch._replace(obs=batch.obs[:, :1])
        agent._learn_policy(batch, torch.tensor(0.1), 1e-3)
        assert same(before.state_dict(), agent.critics.state_dict())
        assert not same(policy.state_dict(), agent.policy.state_dict())


def critic_arguments(agent: SAC) -> tuple[Any, ...]:
    discrete = isinstance(agent.action_space, Discrete)
    cfg = agent.cfg
    outputs = 3 if discrete else 1
    return cfg.net, cfg.net.hidden, cfg.critics, agent.obs_space, 0 if discrete else 1, outputs


class TestCritics:
    @pytest.mark.parametrize("layer_norm", [False, True])
    def test_each_member_is_a_perceptron(self, layer_norm: bool) -> None:
        torch.manual_seed(0)
        cfg = NetConfig("mlp", (), "relu", layer_norm=layer_norm, shared=False, init="orthogonal")
        critics = Critics(cfg, (16, 8), 3, SPACE, 2, 1)
        for parameter in critics.parameters():
            parameter.data.normal_()
        obs, action = torch.randn(5, 3), torch.randn(5, 2)
        values = critics(obs, action)
        assert values.shape == (3, 5, 1)
        for i in range(3):
            x = torch.cat([obs, action], 1)
            for layer in critics.layers:
                if isinstance(layer, nn.ReLU):
                    x = x.clamp(min=0)
                elif layer.weight.shape[1] == 1 and layer_norm and layer.weight.shape[2] > 1:
                    x = nn.functional.layer_norm(x, x.shape[-1:]) * layer.weight[i] + layer.bias[i]
                else:
                    x = x @ layer.weight[i] + layer.bias[i]
            torch.testing.assert_close(values[i], x)
        torch.testing.assert_close(critics(obs, action, members=1), values[:1])

    def test_images_have_a_body_for_each_member(self) -> None:
        space = Box(0, 255, (4, 84, 84), np.uint8)
        critics = Critics(NET, (16,), 2, space, 2, 1)
        obs = torch.randint(0, 255, (3, 4, 84, 84), dtype=torch.uint8)
        values = critics(obs, torch.zeros(3, 2))
        assert values.shape == (2, 3, 1) and not torch.equal(values[0], values[1])

    def test_initial_weights_are_those_of_linear_layers(self) -> None:
        critics = Critics(NET, (400,), 2, Box(-1, 1, (100,), np.float32), 0, 1)
        weight = critics.layers[0].weight
        assert weight.abs().max().item() == pytest.approx(0.1, rel=0.01)
        assert weight.std().item() == pytest.approx(nn.Linear(100, 400).weight.std().item(), 0.05)
        assert not torch.equal(weight[0], weight[1])

    def test_taken_values(self) -> None:
        q = torch.arange(12.0).view(2, 2, 3)
        assert taken(q, torch.tensor([2, 0])).tolist() == [[2, 3], [8, 9]]

    def test_follow(self) -> None:
        old, new = Critics(NET, (4,), 2, SPACE, 0, 1), Critics(NET, (4,), 2, SPACE, 0, 1)
        expected = [0.75 * o + 0.25 * n for o, n in zip(*map(params, (old, new)), strict=True)]
        follow(old, new, 0.25)
        torch.testing.assert_close(params(old), expected)


def params(net: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in net.parameters()]


class TestTemperature:
    ADAM = OptimizerConfig("Adam", {})

    def test_target_entropy(self) -> None:
        assert default_target_entropy(Box(-1, 1, (3,), np.float32), 0.98) == -3
        assert default_target_entropy(Discrete(4), 0.98) == pytest.approx(0.98 * math.log(4))

    def test_rises_where_the_entropy_is_below_its_target(self) -> None:
        temperature = Temperature(None, 0.5, -1.0, self.ADAM, torch.device("cpu"))
        temperature.adapt(-1.5, 0.01)
        assert temperature.value.item() == pytest.approx(0.5 * math.exp(0.01), rel=1e-4)
        temperature = Temperature(None, 0.5, -1.0, self.ADAM, torch.device("cpu"))
        temperature.adapt(0.3, 0.01)
        assert temperature.value.item() == pytest.approx(0.5 * math.exp(-0.01), rel=1e-4)

    def test_constant(self) -> None:
        temperature = Temperature(0.0, 1.0, -1.0, self.ADAM, torch.device("cpu"))
        temperature.adapt(5.0, 0.1)
        temperature.set(3.0)
        assert temperature.value.item() == 0


class TestLoop:
    def test_updates_a_frame_do_not_depend_on_copies(self) -> None:
        for copies in (1, 3, 8):
            steps = [crossed(frame, copies, 4) for frame in range(copies, 240 + copies, copies)]
            assert sum(steps) == 60

    @pytest.mark.parametrize(("kind", "bar"), [("Box", 8.0), ("Discrete", 8.0)])
    def test_learns_the_identity(self, kind: str, bar: float) -> None:
        entropy = () if kind == "Box" else ("agent.target_entropy=0.05",)
        loop = Loop("agent=sac", *on_identity(kind, 1400), *SMALL, *entropy, "env.num_envs=4",
                    "agent.learning_starts=100", "agent.train_frequency=2",
                    "agent.initial_entropy_coef=0.1")  # fmt: skip
        loop.run()
        obs = loop.obs
        action, _ = loop.agent.play(obs, None, None)
        if kind == "Box":
            assert np.abs(action - obs).max() < 0.2
        else:
            assert (action == obs.argmax(1)).all()
        assert np.mean(loop.returns[-50:]) > bar

    @pytest.mark.parametrize("kind", ["Box", "Discrete"])
    def test_resumes_exactly(self, kind: str) -> None:
        settings = ("agent=sac", *on_identity(kind, 1000), *SHORT, "agent.policy_delay=2")
        one = Loop(*settings)
        one.run(155)
        state, env = copy.deepcopy(one.agent.state()), one.env.state()
        other = Loop(*settings, seed=7)
        other.agent.load(state)
        other.env, other.obs, other.clock = one.env, one.obs, copy.copy(one.clock)
        rows = [one.step() for _ in range(25)]
        other.obs, exact = other.env.load(env)
        assert exact and [other.step() for _ in range(25)] == rows
        assert same(one.agent.state(), other.agent.state())

    def test_same_seed_same_curve(self) -> None:
        settings = ("agent=sac", *on_identity("Box", 1000), *SHORT)
        one, same_seed, other = Loop(*settings), Loop(*settings), Loop(*settings, seed=1)
        for loop in (one, same_seed, other):
            loop.run(150)
        assert one.learned == same_seed.learned != other.learned

    def test_weights_play_alike_and_play_changes_nothing(self) -> None:
        settings = ("agent=sac", *on_identity("Box", 1000), *SHORT)
        one, other = Loop(*settings), Loop(*settings, seed=1)
        one.run(130)
        before = copy.deepcopy(one.agent.state())
        other.agent.load_weights(one.agent.weights())
        obs = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
        for generators in ((None, None), [torch.Generator().manual_seed(0) for _ in range(2)]):
            played = one.agent.play(obs, None, generators[0])[0]
            assert np.array_equal(played, other.agent.play(obs, None, generators[1])[0])
        assert same(before, one.agent.state())

    def test_diverges_before_the_step(self) -> None:
        loop = Loop("agent=sac", *on_identity("Box", 1000), *SHORT)
        loop.run(120)
        assert isinstance(loop.agent, SAC)
        loop.agent.replay._reward[:] = np.nan
        before = copy.deepcopy(loop.agent.weights())
        with pytest.raises(Diverged):
            loop.run(1)
        assert same(before, loop.agent.weights())

    def test_refuses_what_does_not_fit(self) -> None:
        with pytest.raises(ConfigError, match="shared"):
            Loop("agent=sac", *on_identity("Box", 100), "agent.net.shared=true")
        with pytest.raises(ConfigError, match="buffer_size"):
            Loop("agent=sac", *on_identity("Box", 100), "agent.buffer_size=3")
        space = Box(-np.inf, np.inf, (1,), np.float32)
        config = Loop("agent=sac", *on_identity("Box", 100)).config.agent
        seed = np.random.SeedSequence(0)
        with pytest.raises(ConfigError, match="bounded"):
            SAC(config, SPACE, space, 1, seed, torch.device("cpu"))
