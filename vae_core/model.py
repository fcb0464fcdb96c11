"""The variational autoencoder: encoder Q(z|x), decoder P(x|z), prior N(0, I). An ensemble is a batched VAE.

Shapes: e members, n records, s draws, m features, p latents, c context values, d encoder inputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_core import single
from vae_core.bounds import kl_standard_normal, reparameterize
from vae_core.likelihoods import LIKELIHOODS, TAIL_START, Likelihood
from vae_core.networks import (
    MLP,
    BatchedLinear,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    sum_of_linear,
)

__all__ = ["VAE", "Architecture", "Group"]

WIDEST_LOG_VARIANCE = 8.0  # of an image's code: far from training a network's raw outputs have no limit
FEW_CLASSES = 16  # of a category: up to so many, one class of all columns lies side by side
SMALL = 8  # classes of a category: those with as many or fewer are one group, then up to twice as many, ...
FEW = 0.1  # of the inputs: so few beyond the limit are quicker taken out than all computed
LINEAR_UP_TO = 4.0  # standardised input: the linear path sees values beyond it logarithmically


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes the shapes of a VAE, as plain JSON values.

    Of images all pixels share one likelihood and scale, so that the lists have one entry.
    """

    likelihoods: list[str]  # one for each feature
    scales: list[float]  # each likelihood's constant (step of a whole number, number of classes)
    latent: int
    hidden: list[int] = field(default_factory=lambda: [64, 64])
    members: int = 3
    context: int = 0
    indicators: list[int] = field(default_factory=list)  # features whose missingness the encoder is told
    activation: str = "silu"
    positivity: str = "exp"  # how 2p encoder outputs give positive variances: "exp" or "square"
    linear_skip: bool = True
    standardise_inputs: bool = True
    image: list[int] | None = None  # height, width, channels
    channels: int = 0  # after the first convolution; 0: no convolutions
    by_size: bool = False  # whether categories of like numbers of classes share a group; not in older models

    @property
    def features(self) -> int:
        return len(self.likelihoods) if self.image is None else math.prod(self.image)

    def to_json(self) -> dict[str, Any]:
        document = asdict(self)
        if self.image is None:
            del document["image"], document["channels"]
        if not self.by_size:
            del document["by_size"]
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Architecture:
        return cls(**document)


@dataclass(frozen=True)
class Group:
    """The features that share a likelihood, side by side in the decoder's output.

    Of categories those of like numbers of classes: all have as many outputs as the largest needs.
    The decoder's weights hold the outputs of a feature together; its result holds all means, then all raw
    spreads, since element-wise functions ran 7 times as fast on numbers that lie side by side. So do a few
    classes: over 7 of them a softmax took a thirteenth of the time, over 20 and more it takes longer.
    """

    likelihood: Likelihood
    features: list[int]
    outputs: int  # decoder outputs for each feature
    first: int  # where they begin in the decoder's output

    @property
    def last(self) -> int:
        """Where they end in the decoder's output."""
        return self.first + len(self.features) * self.outputs

    @property
    def columns(self) -> slice | list[int]:
        """The features as an index into values (n, m): a view where they are neighbours."""
        first, last = self.features[0], self.features[-1]
        return slice(first, last + 1) if last - first + 1 == len(self.features) else self.features

    @property
    def planar(self) -> bool:
        """Whether the decoder's result holds the first outputs of all features, then the second ones."""
        if self.likelihood.name == "categorical":
            return self.outputs <= FEW_CLASSES
        return self.outputs == 2 and self.likelihood.outputs == 2


class ScoredCells(NamedTuple):
    """The cells of one group's features in one micro-batch, each (n, features)."""

    values: Tensor
    split: single.Split
    observed: Tensor | None  # None: all are
    scale: Tensor  # (features,)


class VAE(nn.Module):
    """Encoder and decoder of e members. `encode` and `decode` are the lecture's Q and P."""

    index: Tensor
    output_order: Tensor | None
    scale: Tensor
    input_mean: Tensor
    input_spread: Tensor

    def __init__(self, architecture: Architecture, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.architecture = a = architecture
        generator = generator or torch.Generator().manual_seed(0)
        self.groups = _groups(a)
        order = [feature for group in self.groups for feature in group.features]
        self.in_order = order == sorted(order)
        self.register_buffer("index", torch.argsort(torch.tensor(order)), persistent=False)
        self.register_buffer("output_order", _output_order(self.groups), persistent=False)
        scale = torch.tensor(a.scales, dtype=torch.float64)
        self.register_buffer("scale", scale.expand(a.features) if a.image else scale, persistent=False)
        self.categorical = [j for j, name in enumerate(a.likelihoods) if name == "categorical"]
        categorical = set(self.categorical)
        self.numeric = [j for j in range(a.features) if j not in categorical]
        inputs = len(self.numeric) + sum(int(a.scales[j]) for j in self.categorical) + len(a.indicators)
        self.register_buffer("input_mean", torch.zeros(inputs))
        self.register_buffer("input_spread", torch.ones(inputs))
        e, p, outputs = a.members, a.latent, sum(len(g.features) * g.outputs for g in self.groups)
        start = 0.1 if a.linear_skip or a.image else 1.0
        self.encoder = _encoder(a, inputs + a.context, generator)
        self.encoder_mean = BatchedLinear(e, a.hidden[-1], p, generator, scale=start)
        self.encoder_variance = BatchedLinear(e, a.hidden[-1], p, generator, scale=start)
        self.decoder = _decoder(a, generator)
        if a.channels:
            self.pixel_bias = nn.Parameter(torch.zeros(e, 1, outputs))
        else:
            widest = a.hidden[0] if a.image else a.hidden[-1]
            self.decoder_head = BatchedLinear(e, widest, outputs, generator, scale=start)
        if a.linear_skip:
            self.encoder_skip = BatchedLinear(e, inputs + a.context, p, generator, scale=0.0)
            self.decoder_skip = BatchedLinear(e, p + a.context, outputs, generator, scale=0.0)
        if a.positivity == "square":
            nn.init.ones_(self.encoder_variance.bias)

    def inputs(self, values: Tensor, mask: Tensor) -> Tensor:
        """Values and mask (n, m) -> standardised inputs (n, d); a missing cell is 0 and told by indicators.

        In order: the features that are not categorical, each category one-hot, the indicators. Of images:
        the pixels.
        """
        if self.architecture.image:
            return (values.to(self.input_mean.dtype) - self.input_mean) / self.input_spread
        complete = not values.is_cuda and bool(mask.all())
        if complete and len(self.numeric) == mask.shape[1] and not self.architecture.indicators:
            return (values.to(self.input_mean.dtype) - self.input_mean) / self.input_spread
        x, seen = self.raw_inputs(values, mask)
        return torch.where(seen, (x - self.input_mean) / self.input_spread, torch.zeros_like(x))

    def raw_inputs(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder inputs (n, d) before they are standardised, and which of them are observed (n, d)."""
        values = torch.where(mask, values, torch.zeros_like(values))
        classes = {j: int(self.architecture.scales[j]) for j in self.categorical}
        parts = [values[:, self.numeric]] + [F.one_hot(values[:, j].long(), k) for j, k in classes.items()]
        seen = [mask[:, self.numeric]] + [mask[:, j : j + 1].expand(-1, k) for j, k in classes.items()]
        flags = ~mask[:, self.architecture.indicators]
        x = torch.cat([part.to(self.input_mean.dtype) for part in [*parts, flags]], -1)
        return x, torch.cat([*seen, torch.ones_like(flags)], -1)

    def near(self, inputs: Tensor, context: Tensor) -> Tensor:
        """What the encoder's hidden layers see: inputs (n, d), which far values do not leave, and context."""
        a = self.architecture
        near = inputs
        if not a.image:
            near = 3 * torch.tanh(inputs / 3) if a.standardise_inputs else inputs.clamp(0, 1)
        return torch.cat([near, context], -1) if a.context else near

    def encode(self, inputs: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Q(z|x): inputs (n, d) and context (n, c) -> mean and log-variance, each (e, n, p)."""
        a = self.architecture
        near = self.near(inputs, context)
        h = self.encoder(near.expand(a.members, -1, -1))
        raw = self.encoder_variance(h)
        if a.linear_skip:
            linear = _linear_up_to_a_limit(inputs)
            linear = torch.cat([linear, context], -1) if a.context else linear
            mean = sum_of_linear(self.encoder_mean, h, self.encoder_skip, linear.expand(a.members, -1, -1))
        else:
            mean = self.encoder_mean(h)
        if a.image:
            raw = WIDEST_LOG_VARIANCE * torch.tanh(raw / WIDEST_LOG_VARIANCE)
        return mean, raw if a.positivity == "exp" else torch.log(raw.square() + 1e-8)

    def decode(self, z: Tensor, context: Tensor) -> Tensor:
        """P(x|z): codes (e, N, p), context (e or 1, N, c) -> the likelihoods' parameters (e, N, outputs)."""
        a = self.architecture
        z = torch.cat([z, context.expand(a.members, -1, -1)], -1) if a.context else z
        if a.channels:
            return self.decoder(z) + self._side_by_side(self.pixel_bias)
        h = self.decoder(z)
        if a.linear_skip:
            return sum_of_linear(self.decoder_head, h, self.decoder_skip, z, self._side_by_side)
        return self.decoder_head(h, self._side_by_side)

    def _side_by_side(self, weight: Tensor) -> Tensor:
        """Weights or biases (..., outputs) in the order in which the decoder's result holds the outputs."""
        return weight if self.output_order is None else weight.index_select(-1, self.output_order)

    def parameters_of(self, group: Group, parameters: Tensor) -> Tensor:
        """The part of the decoder's output that belongs to a group, a view: (..., features, outputs)."""
        part = parameters[..., group.first : group.last]
        if group.planar:
            return part.unflatten(-1, (group.outputs, len(group.features))).transpose(-1, -2)
        return part.unflatten(-1, (len(group.features), group.outputs))

    def log_prob(self, values: Tensor, parameters: Tensor, mask: Tensor) -> Tensor:
        """log P(x_j | z) in nats, unsummed: values, mask (n, m), parameters (..., n, outputs) -> (..., n, m).

        The terms have the precision of `values`: float32 in training, float64 in scoring.
        """
        terms = []
        for group in self.groups:
            chosen = self.parameters_of(group, parameters)
            if not group.likelihood.takes_float32:
                chosen = chosen.to(values.dtype)
            x, observed = values[:, group.columns], mask[:, group.columns]
            scale = self.scale[group.features].to(values.dtype)
            complete = not values.is_cuda and bool(observed.all())  # then hiding nothing changes no bit
            hidden = None if complete else observed
            if group.likelihood.name == "whole" and values.dtype == torch.float32:
                x = x if hidden is None else torch.where(hidden, x, torch.zeros_like(x))
                own = single.whole_with_gradient(x, chosen, scale)
                terms.append(own if hidden is None else torch.where(hidden, own, torch.zeros_like(own)))
            else:
                terms.append(group.likelihood.log_prob(x, chosen, hidden, scale))
        together = terms[0] if len(terms) == 1 else torch.cat(terms, -1)
        return together if self.in_order else together[..., self.index]

    def scored_cells(self, values: Tensor, mask: Tensor) -> list[ScoredCells]:
        """The records of a micro-batch, values in double precision, as `summed_terms` takes them."""
        split = single.Split.of(values)
        return [
            ScoredCells(
                values[:, columns],
                split.of_features(columns),
                None if bool((observed := mask[:, columns]).all()) else observed,
                self.scale[group.features],
            )
            for group in self.groups
            for columns in (group.columns,)
        ]

    def summed_terms(self, cells: list[ScoredCells], parameters: Tensor) -> Tensor:
        """log P(x_j | z) in nats, summed over members and draws; for scoring, without gradients.

        Parameters (e, s, n, outputs) in single precision -> (n, m), features in the order of their groups.
        """
        terms = []
        for group, (values, split, observed, scale) in zip(self.groups, cells, strict=True):
            chosen = self.parameters_of(group, parameters)
            if group.likelihood.name in single.TERMS:
                own = single.TERMS[group.likelihood.name](split, chosen, scale)
                own = own if observed is None else torch.where(observed, own, own.new_zeros(()))
            else:
                own = group.likelihood.log_prob(values, chosen.to(values.dtype), observed, scale)
            terms.append(own.flatten(0, 1).sum(0))
        return terms[0] if len(terms) == 1 else torch.cat(terms, -1)

    def forward(self, values: Tensor, mask: Tensor, inputs: Tensor, context: Tensor, noise: Tensor) -> Tensor:
        """Training's objective: the ELBO of each member with one draw, in nats; noise (e, n, p) -> (e, n)."""
        mean, log_variance = self.encode(inputs, context)
        parameters = self.decode(reparameterize(mean, log_variance, noise), context.unsqueeze(0))
        log_likelihood = self.log_prob(values, parameters, mask).sum(-1)
        return log_likelihood - kl_standard_normal(mean, log_variance)

    def terms(
        self, values: Tensor, mask: Tensor, inputs: Tensor, context: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The parts of the bound for scoring, with noise (s, p) shared by all records.

        Returns log-likelihood terms (e, s, n, m), KL (e, n) and decoder outputs (e, s, n, outputs), in nats.
        """
        mean, log_variance = self.encode(inputs, context)
        parameters = self.decode_draws(mean, log_variance, context, noise)
        return self.log_prob(values, parameters, mask), kl_standard_normal(mean, log_variance), parameters

    def decode_draws(self, mean: Tensor, log_variance: Tensor, context: Tensor, noise: Tensor) -> Tensor:
        """Decoder outputs (e, s, n, outputs) for draws from Q (e, n, p), with noise (s, p) shared by all."""
        e, n, p = mean.shape
        s = noise.shape[0]
        z = reparameterize(mean.unsqueeze(1), log_variance.unsqueeze(1), noise.unsqueeze(1))
        repeated = context.expand(1, s, n, -1).reshape(1, s * n, -1)
        return self.decode(z.reshape(e, s * n, p), repeated).unflatten(1, (s, n))


def _linear_up_to_a_limit(inputs: Tensor) -> Tensor:
    """What the encoder's linear path sees: a value beyond the limit costs more and explains nothing more."""
    size = inputs.abs()
    far = size > LINEAR_UP_TO
    few = not inputs.is_cuda and int(far.sum()) < FEW * inputs.numel()  # asking would keep a GPU waiting
    if not few:
        return torch.where(far, _limited(inputs, size), inputs)
    place = far.flatten().nonzero().squeeze(1)
    if not len(place):
        return inputs
    result = inputs.clone(memory_format=torch.contiguous_format)
    some = inputs.flatten()[place]
    result.view(-1)[place] = _limited(some, some.abs())
    return result


def _limited(inputs: Tensor, size: Tensor) -> Tensor:
    """Beyond the limit, inputs growing as a logarithm until the likelihood's tail starts."""
    return inputs.sign() * (
        LINEAR_UP_TO + torch.log1p((size.clamp(max=TAIL_START) - LINEAR_UP_TO).clamp(min=0))
    )


def _encoder(a: Architecture, inputs: int, generator: torch.Generator) -> nn.Module:
    """The encoder up to its heads: convolutions for an architecture with channels, else an MLP."""
    if a.channels and a.image:
        sizes = (_shape(a.image), a.channels, a.hidden[-1])
        return ConvolutionalEncoder(a.members, *sizes, generator, activation=a.activation)
    return MLP(a.members, inputs, a.hidden, generator, activation=a.activation)


def _decoder(a: Architecture, generator: torch.Generator) -> nn.Module:
    """The decoder, up to its head where it is an MLP; an image's widens where its encoder narrows."""
    if a.channels and a.image:
        sizes = (_shape(a.image), a.channels, a.hidden[-1], LIKELIHOODS[a.likelihoods[0]].outputs)
        return ConvolutionalDecoder(a.members, a.latent, *sizes, generator, activation=a.activation)
    hidden = a.hidden[::-1] if a.image else a.hidden
    return MLP(a.members, a.latent + a.context, hidden, generator, activation=a.activation)


def _shape(image: list[int]) -> tuple[int, int, int]:
    height, width, channels = image
    return height, width, channels


def _output_order(groups: list[Group]) -> Tensor | None:
    """The decoder's outputs as its result holds them: of planar groups all first ones, then all second."""
    if not any(group.planar for group in groups):
        return None
    parts = [torch.arange(group.first, group.last) for group in groups]
    return torch.cat(
        [
            part.view(-1, g.outputs).T.flatten() if g.planar else part
            for g, part in zip(groups, parts, strict=True)
        ]
    )


def _groups(architecture: Architecture) -> list[Group]:
    if architecture.image:
        likelihood = LIKELIHOODS[architecture.likelihoods[0]]
        return [Group(likelihood, list(range(architecture.features)), likelihood.outputs, 0)]
    together: dict[tuple[str, int], list[int]] = {}
    for j, (name, scale) in enumerate(zip(architecture.likelihoods, architecture.scales, strict=True)):
        by_size = architecture.by_size and name == "categorical"
        size = max(0, math.ceil(math.log2(scale / SMALL))) if by_size else 0
        together.setdefault((name, size), []).append(j)
    groups, first = [], 0
    for (name, _), features in together.items():
        likelihood = LIKELIHOODS[name]
        outputs = likelihood.outputs or int(max(architecture.scales[j] for j in features))
        groups.append(Group(likelihood, features, outputs, first))
        first += len(features) * outputs
    return groups
