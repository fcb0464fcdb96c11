"""Networks for encoders and decoders, multilayer perceptrons and convolutions; members are batched."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "ACTIVATIONS", "MLP", "BatchedLinear", "ConvolutionalDecoder", "ConvolutionalEncoder", "halvings",
    "sum_of_linear",
]  # fmt: skip

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
        self._made: tuple[list[tuple[int, int]], list[Tensor]] | None = None

    def forward(self, x: Tensor, order: Order | None = None) -> Tensor:
        """The product; `order` puts the outputs of weight and bias in another order first."""
        weight, bias = self.kept(lambda: self.prepared(order, self.weight, self.bias), self.weight, self.bias)
        return torch.baddbmm(bias, x, weight)[..., : self.weight.shape[-1]]

    def train(self, mode: bool = True) -> Self:
        """As in every module; what was kept is let go: training changes weights behind its back."""
        self._made = None
        return super().train(mode)

    def kept(self, build: Callable[[], list[Tensor]], *sources: Tensor) -> list[Tensor]:
        """What `build` makes of the sources, without making it again while they are what they were."""
        if self.training or torch.is_grad_enabled():
            return build()
        state = [(source.data_ptr(), source._version) for source in sources]
        if self._made is None or self._made[0] != state:
            self._made = state, build()
        return self._made[1]

    def prepared(self, order: Order | None, *weights: Tensor) -> list[Tensor]:
        """Weights and biases (..., outputs) as a product takes them: in order; in evaluation mode padded."""
        missing = 0 if self.training else -self.weight.shape[-1] % KERNEL_WIDTH
        ordered = list(weights) if order is None else [order(weight) for weight in weights]
        return [F.pad(weight, (0, missing)) for weight in ordered] if missing else ordered


def sum_of_linear(
    one: BatchedLinear, x: Tensor, other: BatchedLinear, y: Tensor, order: Order | None = None
) -> Tensor:
    """one(x) + other(y), the second product added where the first one stands: no further pass."""
    sources = one.weight, other.weight, one.bias, other.bias
    first, second, bias = one.kept(
        lambda: one.prepared(order, one.weight, other.weight, one.bias + other.bias), *sources
    )
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
        # Uniform up to sqrt(3 / fan_in), of variance 1 / fan_in: an input's variance is kept (LeCun 1998)
        self.layers = nn.ModuleList(
            BatchedLinear(members, a, b, generator, scale=math.sqrt(6 / 2)) for a, b in pairwise(sizes)
        )
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.activation(layer(x))
        return x


def halvings(height: int, width: int) -> int:
    """How often strided convolutions halve an image: until its shorter side is at most 8, and at least once.

    >>> [halvings(side, side) for side in (8, 28, 32, 64, 256)]
    [1, 2, 2, 3, 5]
    """
    shorter, count = min(height, width), 0
    while shorter > 8 or count == 0:
        shorter, count = -(-shorter // 2), count + 1
    return count


def _sides(height: int, width: int) -> list[tuple[int, int]]:
    """Height and width before and after each halving."""
    sides = [(height, width)]
    for _ in range(halvings(height, width)):
        sides.append((-(-sides[-1][0] // 2), -(-sides[-1][1] // 2)))
    return sides


def _channels(first: int, count: int, widest: int) -> list[int]:
    """Channels after each halving: doubled each time, up to `widest`."""
    return [min(first * 2**level, widest) for level in range(count)]


class _Kernels(nn.Module):
    """The weights of one (transposed) convolution for each of e members, as grouped convolutions."""

    def __init__(
        self, members: int, inputs: int, outputs: int, size: int, generator: torch.Generator, *, up: bool
    ) -> None:
        super().__init__()
        shape = (members * inputs, outputs, size, size) if up else (members * outputs, inputs, size, size)
        uniform = 2 * torch.rand(shape, generator=generator) - 1
        # An output of the transposed convolution with stride 2 meets a quarter of its kernel.
        seen = inputs * size * size / (4 if up else 1)
        self.weight = nn.Parameter(uniform * math.sqrt(3.0 / seen))
        self.bias = nn.Parameter(torch.zeros(members * outputs))
        self.members, self.up = members, up

    def forward(self, x: Tensor) -> Tensor:
        """Half or double the sides: (n, e * inputs, h, w) -> (n, e * outputs, ...)."""
        if self.up:
            return F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1, groups=self.members)
        return F.conv2d(x, self.weight, self.bias, stride=2, padding=1, groups=self.members)


class ConvolutionalEncoder(nn.Module):
    """Strided convolutions and one dense layer: flat images (e, n, h * w * c) -> (e, n, hidden).

    Each convolution (3 x 3, stride 2) halves the sides; `halvings` says how many there are.
    """

    def __init__(
        self,
        members: int,
        shape: tuple[int, int, int],
        channels: int,
        hidden: int,
        generator: torch.Generator,
        *,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self.shape, self.members = shape, members
        height, width, colours = shape
        self.sides = _sides(height, width)
        sizes = [colours, *_channels(channels, len(self.sides) - 1, 4 * channels)]
        self.convolutions = nn.ModuleList(
            _Kernels(members, a, b, 3, generator, up=False) for a, b in pairwise(sizes)
        )
        flat = sizes[-1] * self.sides[-1][0] * self.sides[-1][1]
        self.dense = BatchedLinear(members, flat, hidden, generator, scale=math.sqrt(6 / 2))
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        h = x.unflatten(-1, self.shape).permute(1, 0, 4, 2, 3).flatten(1, 2)
        for convolution in self.convolutions:
            h = self.activation(convolution(h))
        flat = h.reshape(n, self.members, -1).transpose(0, 1)
        return self.activation(self.dense(flat))


class ConvolutionalDecoder(nn.Module):
    """The encoder mirrored: codes (e, n, p) -> parameters of each pixel (e, n, h * w * c * outputs).

    Transposed convolutions (4 x 4, stride 2) double the sides, and what lies beyond an odd side is cut off.
    The first outputs of all pixels come first, then the second ones.
    """

    def __init__(
        self,
        members: int,
        latent: int,
        shape: tuple[int, int, int],
        channels: int,
        hidden: int,
        outputs: int,
        generator: torch.Generator,
        *,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self.shape, self.members, self.outputs = shape, members, outputs
        height, width, colours = shape
        self.sides = _sides(height, width)[::-1]
        sizes = [colours * outputs, *_channels(channels, len(self.sides) - 1, 4 * channels)][::-1]
        flat = sizes[0] * self.sides[0][0] * self.sides[0][1]
        self.dense = MLP(members, latent, [hidden, flat], generator, activation=activation)
        self.convolutions = nn.ModuleList(
            _Kernels(members, a, b, 4, generator, up=True) for a, b in pairwise(sizes)
        )
        self.first = (sizes[0], *self.sides[0])
        self.activation = ACTIVATIONS[activation]

    def forward(self, z: Tensor) -> Tensor:
        e, n = z.shape[:2]
        h = self.dense(z).transpose(0, 1).reshape(n, e * self.first[0], *self.first[1:])
        for place, convolution in enumerate(self.convolutions):
            height, width = self.sides[place + 1]
            h = convolution(h)[..., :height, :width]
            if place + 1 < len(self.convolutions):
                h = self.activation(h)
        pixels = h.unflatten(1, (e, self.shape[2], self.outputs))  # (n, e, c, k, h, w)
        return pixels.permute(1, 0, 3, 4, 5, 2).flatten(2)
