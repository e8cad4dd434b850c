"""Linear layers with learned noise in their weights: exploration that depends on the state."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NoisyLinear(nn.Module):
    """y = (μʷ + σʷ ⊙ εʷ) x + μᵇ + σᵇ ⊙ εᵇ (Fortunato et al., 2018, eq. 9).

    The noise is factorised (eq. 10 and 11): εʷ = f(ε) f(ε')ᵀ and εᵇ = f(ε) with f(x) = sgn(x) √|x|.
    It is not part of the saved parameters: who uses the layer draws it, or drops it, before.
    """

    def __init__(self, inputs: int, outputs: int, sigma: float) -> None:
        super().__init__()
        bound = inputs**-0.5  # section 3.2
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), sigma * bound))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), sigma * bound))
        self._noise: tuple[Tensor, Tensor] | None = None

    def draw_noise(self, generator: torch.Generator, rows: int = 1) -> None:
        """Draw new noise: one for a whole batch, or one for each of its `rows`."""
        outputs, inputs = self.weight.shape
        noise = torch.empty(rows, inputs + outputs, device=self.weight.device)
        noise.normal_(generator=generator)
        noise = noise.sign() * noise.abs().sqrt_()
        self._noise = noise[:, :inputs], noise[:, inputs:]

    def drop_noise(self) -> None:
        """Use the means μ alone."""
        self._noise = None

    def forward(self, x: Tensor) -> Tensor:
        """Return y (B, outputs)."""
        y = F.linear(x, self.weight, self.bias)
        if self._noise is None:
            return y
        # (σ ⊙ f(ε) f(ε')ᵀ) x = f(ε) ⊙ σ (f(ε') ⊙ x): no matrix of noise is needed.
        before, after = self._noise
        return y + after * F.linear(x * before, self.weight_sigma, self.bias_sigma)
