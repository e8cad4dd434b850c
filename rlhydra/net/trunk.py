"""Networks that turn an observation into features, and their initialisation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from gymnasium.spaces import Box
from torch import Tensor, nn

from rlhydra.config import Convolution, NetConfig

ACTIVATIONS = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "selu": nn.SELU,
    "silu": nn.SiLU,
}
_IN_PLACE: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.Tanh: torch.tanh_,
    nn.ReLU: torch.relu_,
}


# A linear layer's weight and bias, if it is one, and what follows.
Step = tuple[Tensor | None, Tensor | None, Callable[[Tensor], Tensor] | None]


class Network(nn.Sequential):
    """Layers one after the other, linear ones and their activations as functions.

    Calling a module takes as long as the work of a small layer: acting is 1.7 times faster so.
    """

    precision = torch.float32  # of the products; inputs, outputs and parameters are float32

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        # Tuples, not closures: a deep copy must refer to its own parameters.
        self._steps: list[Step] = []
        for before, layer in zip((None, *layers), layers, strict=False):
            if isinstance(layer, nn.Linear):
                self._steps.append((layer.weight, layer.bias, None))
            elif isinstance(before, nn.Linear) and type(layer) in _IN_PLACE:
                self._steps[-1] = (before.weight, before.bias, _IN_PLACE[type(layer)])
            else:
                self._steps.append((None, None, layer))

    def forward(self, input: Tensor) -> Tensor:
        """Return the last layer's output."""
        if self.precision == torch.float32:
            return _through(input, self._steps)
        # Outputs, such as values of hundreds, need float32's digits: a last layer without an
        # activation computes in it.
        exact = [step for step in self._steps[-1:] if step[2] is None]
        with torch.autocast(input.device.type, self.precision):
            features = _through(input, self._steps[: len(self._steps) - len(exact)])
        return _through(features.to(torch.float32), exact)


def _through(x: Tensor, steps: Sequence[Step]) -> Tensor:
    for weight, bias, function in steps:
        if weight is not None:
            x = F.linear(x, weight, bias)
        if function is not None:
            x = function(x)
    return x


def network(cfg: NetConfig, obs_space: Box, outputs: int | None, last_gain: float = 1.0) -> Network:
    """Return the network from observations (B, ...) to `outputs` numbers; None: to features.

    `last_gain` scales the last layer's orthogonal weights: 0.01 makes a policy start near uniform.
    """
    body, width = _body(cfg, obs_space)
    layers: list[nn.Module] = [*body, *mlp(width, cfg.hidden, cfg.activation, cfg.layer_norm)]
    if outputs is not None:
        layers.append(nn.Linear(cfg.hidden[-1] if cfg.hidden else width, outputs))
    net = Network(*layers)
    if cfg.init == "orthogonal":
        orthogonal(net, last_gain if outputs is not None else 2**0.5)
    return net


def feature_size(cfg: NetConfig, obs_space: Box) -> int:
    """Return the width of `network(cfg, obs_space, None)`."""
    return cfg.hidden[-1] if cfg.hidden else _body(cfg, obs_space)[1]


def mlp(inputs: int, hidden: Sequence[int], activation: str, layer_norm: bool) -> list[nn.Module]:
    """Return the layers of a multi-layer perceptron without its output layer."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise((inputs, *hidden)):
        layers.append(nn.Linear(before, after))
        if layer_norm:
            layers.append(nn.LayerNorm(after))
        layers.append(ACTIVATIONS[activation]())
    return layers


def _body(cfg: NetConfig, obs_space: Box) -> tuple[list[nn.Module], int]:
    """Return the layers before the perceptron and their width."""
    kind = cfg.kind_for(obs_space.shape)
    if kind == "mlp":
        return [], obs_space.shape[0]
    channels = obs_space.shape[0]
    body = _nature(channels, cfg.convolutions) if kind == "nature" else _impala(channels)
    with torch.no_grad():
        width = nn.Sequential(*body)(torch.zeros(1, *obs_space.shape)).shape[1]
    return body, width


class Pixels(nn.Module):
    """Turns bytes into [0, 1], as late as here: uint8 is a quarter of the memory traffic.

    With the channels last in memory the convolutions behind take two thirds of the time. Moved
    there as bytes, pixels take half the time that one conversion of type and place would.
    """

    precision = torch.float32  # bfloat16 has every byte exactly

    def forward(self, obs: Tensor) -> Tensor:
        """Return `obs` (B, C, H, W) as floats; those that are floats already stay as they are."""
        last = obs.contiguous(memory_format=torch.channels_last)
        floats = last.to(self.precision)
        return floats if obs.is_floating_point() else floats.mul_(1 / 255)


def _nature(channels: int, convolutions: Sequence[Convolution]) -> list[nn.Module]:
    """Mnih et al. (2015), without the last linear layer, which is `hidden: [512]`."""
    layers: list[nn.Module] = [Pixels()]
    for filters, size, stride in convolutions:
        layers += [nn.Conv2d(channels, filters, size, stride), nn.ReLU()]
        channels = filters
    return [*layers, nn.Flatten()]


class Residual(nn.Module):
    """Two convolutions and a shortcut (Espeholt et al., 2018, figure 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + f(x)."""
        return x + self.second(self.first(x.relu()).relu())


def _impala(channels: int) -> list[nn.Module]:
    """Espeholt et al. (2018), the deep network, without the last linear layer."""
    layers: list[nn.Module] = [Pixels()]
    for before, after in itertools.pairwise((channels, 16, 32, 32)):
        pool = nn.MaxPool2d(3, stride=2, padding=1)
        layers += [nn.Conv2d(before, after, 3, padding=1), pool, Residual(after), Residual(after)]
    return [*layers, nn.ReLU(), nn.Flatten()]


def orthogonal(net: nn.Sequential, last_gain: float) -> None:
    """Set orthogonal weights of gain √2, `last_gain` in the last layer, and biases 0, in place."""
    layers = [m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, last_gain if layer is layers[-1] else 2**0.5)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
