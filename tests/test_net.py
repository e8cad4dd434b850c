"""Networks, initialisation, action distributions against torch's, running statistics."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import nn
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal

from rlhydra.config import NetConfig
from rlhydra.net.actor_critic import ActorCritic, in_chunks
from rlhydra.net.head import Categorical, DiagonalGaussian, MultiCategorical, head_for
from rlhydra.net.moments import Moments, RewardScaler
from rlhydra.net.trunk import Network, network
from rlhydra.schema import ConfigError

CFG = NetConfig("auto", (16, 8), "tanh", layer_norm=False, shared=False, init="orthogonal")
VECTOR = Box(-1, 1, (5,), np.float32)
IMAGE = Box(0, 255, (4, 84, 84), np.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestHeads:
    def test_categorical(self) -> None:
        head, logits = Categorical(4), torch.randn(7, 4, generator=generator())
        action = head.sample(logits, generator())
        reference = TorchCategorical(logits=logits)
        torch.testing.assert_close(head.log_prob(logits, action), reference.log_prob(action))
        torch.testing.assert_close(head.entropy(logits), reference.entropy())
        assert torch.equal(head.mode(logits), logits.argmax(-1))

    def test_multicategorical(self) -> None:
        head, logits = MultiCategorical([3, 2]), torch.randn(7, 5, generator=generator())
        action = head.sample(logits, generator())
        assert action.shape == (7, 2)
        parts = [TorchCategorical(logits=piece) for piece in logits.split([3, 2], -1)]
        log_prob = sum(part.log_prob(action[:, i]) for i, part in enumerate(parts))
        torch.testing.assert_close(head.log_prob(logits, action), log_prob)
        entropy = sum(part.entropy() for part in parts)
        torch.testing.assert_close(head.entropy(logits), entropy)
        assert head.mode(logits)[:, 1].tolist() == logits[:, 3:].argmax(-1).tolist()

    def test_gaussian(self) -> None:
        head, mean = DiagonalGaussian(3), torch.randn(7, 3, generator=generator())
        nn.init.uniform_(head.log_std, -1, 1, generator=generator())
        action = head.sample(mean, generator())
        reference = Normal(mean, head.log_std.exp())
        torch.testing.assert_close(head.log_prob(mean, action), reference.log_prob(action).sum(-1))
        torch.testing.assert_close(head.entropy(mean), reference.entropy().sum(-1))
        assert torch.equal(head.mode(mean), mean)

    def test_samples_have_the_distribution(self) -> None:
        logits = torch.tensor([0.1, 0.6, 0.3]).log().expand(40_000, 3)
        counts = Categorical(3).sample(logits, generator()).bincount(minlength=3) / 40_000
        torch.testing.assert_close(counts, torch.tensor([0.1, 0.6, 0.3]), atol=0.01, rtol=0)
        head = DiagonalGaussian(1)
        nn.init.constant_(head.log_std, 0.5)
        drawn = head.sample(torch.full((40_000, 1), 2.0), generator())
        assert drawn.mean().item() == pytest.approx(2, abs=0.03)
        assert drawn.std().item() == pytest.approx(np.exp(0.5), abs=0.03)

    def test_chosen_by_the_action_space(self) -> None:
        assert isinstance(head_for(Discrete(3)), Categorical)
        assert head_for(MultiDiscrete([3, 4])).size == 7
        box = head_for(Box(-1, 1, (2,)), initial_std=0.5)
        assert box.action_shape == (2,)
        assert box.sample(torch.zeros(10_000, 2), generator()).std().item() == pytest.approx(
            0.5, abs=0.02
        )


class TestNetworks:
    @pytest.mark.parametrize("activation", ["tanh", "relu", "elu", "gelu", "selu", "silu"])
    @pytest.mark.parametrize("layer_norm", [False, True])
    def test_equals_its_modules_one_by_one(self, activation: Any, layer_norm: bool) -> None:
        cfg = dataclasses.replace(CFG, activation=activation, layer_norm=layer_norm)
        net = network(cfg, VECTOR, 3)
        x = torch.randn(6, 5)
        expected, before = x, x.clone()
        for layer in net:
            expected = layer(expected)
        torch.testing.assert_close(net(x), expected)
        assert torch.equal(x, before)
        assert len(list(net)) == (7 if layer_norm else 5)

    def test_a_deep_copy_has_weights_of_its_own(self) -> None:
        net = network(CFG, VECTOR, 3)
        other = copy.deepcopy(net)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.zero_()
        x = torch.randn(6, 5)
        assert not net(x).any()
        assert other(x).any()

    def test_orthogonal_gains(self) -> None:
        net = network(CFG, VECTOR, 3, last_gain=0.01)
        first, second, last = (layer for layer in net if isinstance(layer, nn.Linear))
        for layer, gain, size in ((first, 2, 5), (second, 2, 8), (last, 1e-4, 3)):
            rows = layer.weight if layer.in_features > layer.out_features else layer.weight.T
            torch.testing.assert_close(rows @ rows.T, gain * torch.eye(size), atol=1e-5, rtol=1e-4)
            assert not layer.bias.any()

    @pytest.mark.parametrize("kind", ["nature", "impala"])
    @pytest.mark.parametrize("shared", [False, True])
    def test_images(self, kind: Any, shared: bool) -> None:
        cfg = dataclasses.replace(CFG, kind=kind, shared=shared)
        net = ActorCritic(cfg, IMAGE, Discrete(6))
        images = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
        output, value = net(images)
        assert output.shape == (3, 6)
        assert value.shape == (3,)
        torch.testing.assert_close(net.policy(images), output)
        assert images.dtype == torch.uint8

    @pytest.mark.parametrize("shared", [False, True])
    def test_shared_or_separate(self, shared: bool) -> None:
        net = ActorCritic(dataclasses.replace(CFG, shared=shared), VECTOR, Discrete(2))
        _, value = net(torch.randn(4, 5))
        gradients = torch.autograd.grad(value.sum(), list(net.parameters()), allow_unused=True)
        touched = sum(gradient is not None for gradient in gradients)
        assert touched == 6  # two hidden layers and the critic's own, whoever owns them
        assert len(gradients) == (8 if shared else 12)

    @pytest.mark.parametrize("activation", ["tanh", "relu", "silu"])
    @pytest.mark.parametrize("shared", [False, True])
    def test_acting_is_the_policy(self, activation: Any, shared: bool) -> None:
        cfg = dataclasses.replace(CFG, activation=activation, shared=shared)
        net, obs = ActorCritic(cfg, VECTOR, Discrete(3)), np.ones((4, 5), np.float32)
        for _ in range(2):
            acting = net.acting(obs)
            assert not acting.requires_grad
            torch.testing.assert_close(acting, net.policy(torch.from_numpy(obs)).detach())
            for parameter in net.parameters():  # it follows the parameters, in place or moved
                parameter.data = parameter.data * 0.5
        other = copy.deepcopy(net)
        before = other.acting(obs).clone()
        with torch.no_grad():
            next(net.actor.parameters()).zero_()
        assert torch.equal(other.acting(obs), before)

    def test_chunks(self) -> None:
        net, obs = ActorCritic(CFG, VECTOR, Discrete(2)), torch.randn(10, 5)
        for whole, pieces in zip(net(obs), in_chunks(net, obs, 4), strict=True):
            torch.testing.assert_close(whole.detach(), pieces)

    def test_a_network_that_does_not_fit_says_so(self) -> None:
        with pytest.raises(ConfigError, match=r"agent\.net\.kind: nature does not fit"):
            network(dataclasses.replace(CFG, kind="nature"), VECTOR, 2)
        with pytest.raises(ConfigError, match="use nature or impala"):
            network(dataclasses.replace(CFG, kind="mlp"), IMAGE, 2)

    def test_convolutions_of_ones_own(self) -> None:
        net = network(dataclasses.replace(CFG, conv=((8, 4, 4), (16, 3, 2))), IMAGE, 2)
        layers = [layer for layer in net if isinstance(layer, nn.Conv2d)]
        shapes = [(c.in_channels, c.out_channels, c.kernel_size, c.stride) for c in layers]
        assert shapes == [(4, 8, (4, 4), (4, 4)), (8, 16, (3, 3), (2, 2))]
        assert net(torch.zeros(1, 4, 84, 84, dtype=torch.uint8)).shape == (1, 2)
        with pytest.raises(ValueError, match=r"conv: expected \[filters, size, stride\] a layer"):
            dataclasses.replace(CFG, conv=((8, 4),))

    @pytest.mark.parametrize("side", [1, 10, 35, 36])
    def test_small_images(self, side: int) -> None:
        space = Box(0, 255, (3, side, side), np.uint8)
        assert CFG.kind_for(space.shape) == ("nature" if side >= 36 else "impala")
        assert network(CFG, space, 2)(torch.zeros(1, *space.shape).byte()).shape == (1, 2)
        if side < 36:
            with pytest.raises(ConfigError, match="use impala"):
                dataclasses.replace(CFG, kind="nature").kind_for(space.shape)

    def test_no_hidden_layer(self) -> None:
        net = network(dataclasses.replace(CFG, hidden=()), VECTOR, 2)
        assert isinstance(net, Network)
        assert net(torch.zeros(1, 5)).shape == (1, 2)


class TestMoments:
    def test_batches_add_up(self) -> None:
        rng = np.random.default_rng(0)
        stream = rng.normal(3, [1, 10], (100, 2))
        moments = Moments((2,))
        for batch in np.split(stream, [1, 4, 50]):
            moments.add(batch)
        np.testing.assert_allclose(moments.mean, stream.mean(0))
        np.testing.assert_allclose(moments.variance, stream.var(0))
        normal = moments.normalise(stream.astype(np.float32))
        assert normal.dtype == np.float32
        np.testing.assert_allclose(normal.mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(normal.std(0), 1, atol=1e-5)
        assert moments.normalise(np.full((1, 2), 1e9, np.float32)).max() == 10

    def test_nothing_is_changed_before_the_first_batch(self) -> None:
        obs = np.array([[0.5, -2]], np.float32)
        np.testing.assert_allclose(Moments((2,)).normalise(obs), obs)

    def test_saved(self) -> None:
        moments, other = Moments((2,)), Moments((2,))
        moments.add(np.random.default_rng(0).normal(size=(5, 2)))
        other.load(moments.state())
        obs = np.ones((1, 2), np.float32)
        assert np.array_equal(moments.normalise(obs), other.normalise(obs))
        assert other.count == 5

    def test_rewards_are_divided_by_the_deviation_of_returns(self) -> None:
        rewards = np.array([[1.0], [2.0], [4.0], [8.0]])
        ended = np.array([[False], [True], [False], [False]])
        scaled = RewardScaler(1, 0.5)(rewards, ended)
        deviation = np.std([1, 2.5, 4, 10])  # 0.5 · 1 + 2; anew; 0.5 · 4 + 8
        np.testing.assert_allclose(scaled, rewards / deviation, rtol=1e-5)

    def test_returns_run_on_between_rollouts(self) -> None:
        rewards = np.random.default_rng(0).normal(size=(8, 3))
        ended = np.random.default_rng(1).random((8, 3)) < 0.3
        whole, halves = RewardScaler(3, 0.9), RewardScaler(3, 0.9)
        whole(rewards, ended)
        halves(rewards[:5], ended[:5])
        again = RewardScaler(3, 0.9)
        again.load(halves.state())
        again(rewards[5:], ended[5:])
        expected, got = whole.state(), again.state()
        np.testing.assert_allclose(expected["returns"], got["returns"])
        np.testing.assert_allclose(expected["moments"]["variance"], got["moments"]["variance"])
