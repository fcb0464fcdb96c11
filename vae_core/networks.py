"""Multilayer perceptrons for encoders and decoders; an ensemble's members as one batched product."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "MLP", "BatchedLinear", "sum_of_linear"]

# Outputs; multiples of it gave the same bits in every position (measured; a test holds us to it).
KERNEL_WIDTH = 16
Order = Callable[[Tensor], Tensor]  # weights (..., outputs) with the outputs in another order
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "relu": nn.functional.relu,
    "tanh": torch.tanh,
}


class BatchedLinear(nn.Module):
    """x @ weight + bias for each of e members at once: (e, n, inputs) -> (e, n, outputs).

    Weights start uniform in +-scale / sqrt(inputs), drawn from `generator`; biases start at 0. In evaluation
    mode a row of the result has the same bits wherever it stands in the batch: outputs are padded to full
    kernel widths, since matrix products compute the rows beside a narrow edge in another order.
    """

    def __init__(
        self, members: int, inputs: int, outputs: int, generator: torch.Generator, *, scale: float = 1.0
    ) -> None:
        super().__init__()
        uniform = 2 * torch.rand((members, inputs, outputs), generator=generator) - 1
        self.weight = nn.Parameter(uniform * (scale / math.sqrt(max(1, inputs))))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, x: Tensor, order: Order | None = None) -> Tensor:
        """The product; `order` puts the outputs of weight and bias in another order first."""
        weight, bias = self.prepared(order, self.weight, self.bias)
        return torch.baddbmm(bias, x, weight)[..., : self.weight.shape[-1]]

    def prepared(self, order: Order | None, *weights: Tensor) -> list[Tensor]:
        """Weights and biases (..., outputs) as a product takes them: in order; in evaluation mode padded."""
        missing = 0 if self.training else -self.weight.shape[-1] % KERNEL_WIDTH
        ordered = list(weights) if order is None else [order(weight) for weight in weights]
        return [F.pad(weight, (0, missing)) for weight in ordered] if missing else ordered


def sum_of_linear(
    one: BatchedLinear, x: Tensor, other: BatchedLinear, y: Tensor, order: Order | None = None
) -> Tensor:
    """one(x) + other(y), the second product added where the first one stands: no further pass."""
    first, second, bias = one.prepared(order, one.weight, other.weight, one.bias + other.bias)
    return torch.baddbmm(bias, x, first).baddbmm_(y, second)[..., : one.weight.shape[-1]]


class MLP(nn.Module):
    """Hidden layers with an activation after each: (e, n, inputs) -> (e, n, hidden[-1])."""

    def __init__(
        self,
        members: int,
        inputs: int,
        hidden: Sequence[int],
        generator: torch.Generator,
        *,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        # sqrt(6 / fan_in) keeps the variance through rectified layers (He et al. 2015)
        self.layers = nn.ModuleList(
            BatchedLinear(members, a, b, generator, scale=math.sqrt(6 / 2)) for a, b in pairwise(sizes)
        )
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.activation(layer(x))
        return x
