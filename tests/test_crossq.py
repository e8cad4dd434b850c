"""CrossQ: batch renormalisation against a slow reference, the joint pass, learning, resuming."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import nn

from rlhydra.agent.agent import Diverged
from rlhydra.agent.crossq import CrossQ, joint_values
from rlhydra.config import NetConfig
from rlhydra.net.batch_renorm import BatchRenorm, renormed_network
from rlhydra.schema import ConfigError
from tests.identity import Loop, on_identity
from tests.states import same
from tests.test_sac import SHORT, SMALL, some_batch

NET = NetConfig("auto", (16, 8), "relu", layer_norm=False, shared=False, init="default")
FAST = ("agent.critic_hidden=[32]", "agent.renorm_momentum=0.1", "agent.renorm_warmup=20")


def short(kind: str = "Box", *overrides: str, seed: int = 0) -> Loop:
    return Loop("agent=crossq", *on_identity(kind, 1000), *SHORT, *FAST, *overrides, seed=seed)


def agent_of(loop: Loop) -> CrossQ:
    assert isinstance(loop.agent, CrossQ)
    return loop.agent


class Reference:
    """Batch renormalisation of one feature as algorithm 1 is written, in float64."""

    def __init__(self, momentum: float, warmup: int) -> None:
        self.mean, self.variance, self.seen = 0.0, 1.0, 0
        self.momentum, self.warmup = momentum, warmup

    def train(self, x: np.ndarray, gamma: float, beta: float) -> np.ndarray:
        mean, variance = x.mean(), ((x - x.mean()) ** 2).mean()
        batch_std, std = np.sqrt(variance + 1e-3), np.sqrt(self.variance + 1e-3)
        r, d = 1.0, 0.0
        if self.seen >= self.warmup:
            r = min(max(batch_std / std, 1 / 3), 3)
            d = min(max((mean - self.mean) / std, -5), 5)
        self.mean += self.momentum * (mean - self.mean)
        self.variance += self.momentum * (variance - self.variance)
        self.seen += 1
        return gamma * ((x - mean) / batch_std * r + d) + beta

    def evaluate(self, x: np.ndarray, gamma: float, beta: float) -> np.ndarray:
        return gamma * (x - self.mean) / np.sqrt(self.variance + 1e-3) + beta


class TestBatchRenorm:
    @pytest.mark.parametrize("warmup", [0, 2, 100])
    @pytest.mark.parametrize("members", [None, 2])
    def test_train_and_evaluation(self, members: int | None, warmup: int) -> None:
        generator = torch.Generator().manual_seed(0)
        layer = BatchRenorm(members, 3, 0.1, warmup)
        layer.weight.data.uniform_(0.5, 2, generator=generator)
        layer.bias.data.normal_(generator=generator)
        copies = members or 1
        references = [[Reference(0.1, warmup) for _ in range(3)] for _ in range(copies)]
        # The batches' moments move, so that the corrections reach their limits.
        for scale, shift in ((1.0, 0.0), (0.5, 1.0), (9.0, -2.0), (0.01, 30.0), (1.0, 0.5)):
            x = torch.randn(copies, 16, 3, generator=generator) * scale + shift
            for training in (True, False):
                layer.train(training)
                y = layer(x if members else x[0]).detach().view(copies, 16, 3)
                for i in range(copies):
                    for j in range(3):
                        reference = references[i][j]
                        work = reference.train if training else reference.evaluate
                        gamma, beta = (
                            p.detach().reshape(copies, 3)[i, j].item()
                            for p in (layer.weight, layer.bias)
                        )
                        expected = work(x[i, :, j].double().numpy(), gamma, beta)
                        np.testing.assert_allclose(y[i, :, j], expected, rtol=1e-3, atol=1e-3)

    def test_corrections_are_constants_to_the_gradient(self) -> None:
        """The gradient is batch normalisation's, times r."""
        torch.manual_seed(0)
        x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
        layer = BatchRenorm(None, 3, 0.1, 0).double()
        layer.mean.fill_(0.3)
        layer.variance.fill_(0.5)
        weight = torch.randn(8, 3, dtype=torch.float64)
        variance, mean = torch.var_mean(x, 0, correction=0)
        r = (torch.sqrt(variance + 1e-3) / np.sqrt(0.501)).detach()
        normal = (x - mean) / torch.sqrt(variance + 1e-3)
        (expected,) = torch.autograd.grad((normal * r * weight).sum(), x)
        gradients = torch.autograd.grad((layer(x) * weight).sum(), [x, layer.weight])
        torch.testing.assert_close(gradients[0], expected)
        d = (mean - 0.3).detach() / np.sqrt(0.501)
        torch.testing.assert_close(gradients[1], ((normal * r + d) * weight).sum(0).detach())

    def test_evaluation_moves_nothing(self) -> None:
        layer = BatchRenorm(None, 3, 0.1, 0).eval()
        before = copy.deepcopy(layer.state_dict())
        layer(torch.randn(5, 3))
        assert same(before, layer.state_dict())

    @pytest.mark.parametrize("shape", [(3,), (4, 84, 84)])
    def test_network_normalises_features_and_hidden_layers(self, shape: tuple[int, ...]) -> None:
        space = Box(-1, 1, shape, np.float32)
        net = renormed_network(NET, space, 2, 0.01, 0)
        widths = [m.weight.shape[0] for m in net if isinstance(m, BatchRenorm)]
        assert widths == [3 if len(shape) == 1 else 3136, 16, 8]
        assert isinstance(net[-1], nn.Linear)
        assert net(torch.rand(5, *shape)).shape == (5, 2)


class TestCritics:
    def test_joint_pass_normalises_both_halves_together(self) -> None:
        agent = agent_of(short())
        batch = some_batch(6, torch.rand(6, 1))
        batch = batch._replace(obs=batch.obs[:, :1], next_obs=batch.next_obs[:, :1] + 3)
        next_action = torch.rand(6, 1)
        critics = agent.critics.train()
        q, next_q = joint_values(critics, batch, next_action)
        assert q.shape == (2, 6) and next_q.shape == (2, 6, 1)
        assert q.requires_grad and not next_q.requires_grad
        obs = torch.cat([batch.obs, batch.next_obs])
        both = critics(obs, torch.cat([batch.action, next_action])).squeeze(-1)
        torch.testing.assert_close(torch.cat([q, next_q.squeeze(-1)], 1), both)
        first, *_ = critics.layers
        assert isinstance(first, BatchRenorm) and first.seen == 2
        mean = first.mean[0, 0, 0].item()
        assert mean == pytest.approx(0.19 * obs.mean().item(), rel=1e-5)  # 1 - 0.9²

    def test_target_is_of_the_joint_pass(self) -> None:
        agent = agent_of(short("Discrete", "agent.entropy_coef=0.2"))
        batch = some_batch(6, torch.tensor([0, 1, 2, 1, 0, 2]))
        with torch.no_grad():
            choices = agent.policy.choices(batch.next_obs, agent.generator)
            q, next_q = joint_values(copy.deepcopy(agent.critics).train(), batch, None)
            value = (choices.prob * (next_q.min(0).values - 0.2 * choices.log_prob)).sum(1)
            target = batch.reward + batch.discount * value
            expected = 0.5 * (q - target).square().mean(1).sum().item()
        loss, _ = agent._learn_critics(batch, torch.tensor(0.2), 1e-3)
        assert loss == pytest.approx(expected, rel=1e-5)

    def test_policy_step_neither_moves_nor_trains_the_critics(self) -> None:
        agent = agent_of(short())
        batch = some_batch(6, torch.rand(6, 1))
        before, policy = copy.deepcopy(agent.critics), copy.deepcopy(agent.policy)
        agent._learn_policy(batch._replace(obs=batch.obs[:, :1]), torch.tensor(0.1), 1e-3)
        assert same(before.state_dict(), agent.critics.state_dict())
        assert not same(policy.state_dict(), agent.policy.state_dict())
        assert not any(m.training for net in (agent.policy, agent.critics) for m in net.modules())


class TestLoop:
    @pytest.mark.parametrize("kind", ["Box", "Discrete"])
    def test_learns_the_identity(self, kind: str) -> None:
        loop = Loop("agent=crossq", *on_identity(kind, 1400), *SMALL, *FAST, "env.num_envs=4",
                    "agent.target_entropy=-1", "agent.initial_entropy_coef=0.1",
                    "agent.learning_starts=100", "agent.train_frequency=2")  # fmt: skip
        loop.run()
        action, _ = loop.agent.play(loop.obs, None, None)
        if kind == "Box":
            assert np.abs(action - loop.obs).max() < 0.25
        else:
            assert (action == loop.obs.argmax(1)).all()

    def test_policy_learns_every_third_update(self) -> None:
        loop = short()
        agent = agent_of(loop)
        loop.run(99)
        moved: list[bool] = []
        for _ in range(6):
            before = copy.deepcopy(agent.policy.state_dict())
            loop.step()
            moved.append(not same(before, agent.policy.state_dict()))
        assert moved == [False, False, True] * 2

    @pytest.mark.parametrize("kind", ["Box", "Discrete"])
    def test_resumes_exactly(self, kind: str) -> None:
        one, other = short(kind), short(kind, seed=7)
        one.run(155)
        state, env, clock = copy.deepcopy(one.agent.state()), one.env.state(), copy.copy(one.clock)
        rows = [one.step() for _ in range(25)]
        other.agent.load(state)
        other.obs, exact = other.env.load(env)
        other.clock = clock
        assert exact and [other.step() for _ in range(25)] == rows
        assert same(one.agent.state(), other.agent.state())

    def test_diverges_before_the_step(self) -> None:
        loop = short()
        loop.run(120)
        agent_of(loop).replay._reward[:] = np.nan
        before = [p.clone() for p in agent_of(loop).critics.parameters()]
        with pytest.raises(Diverged):
            loop.run(1)
        torch.testing.assert_close(before, list(agent_of(loop).critics.parameters()))

    def test_refuses_what_does_not_fit(self) -> None:
        for override in ("agent.net.layer_norm=true", "agent.net.shared=true"):
            with pytest.raises(ConfigError, match=override.split("=")[0]):
                short("Box", override)
