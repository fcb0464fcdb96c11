"""What P(x|z) can be: for each column, a normalised density or mass with parameters from the decoder.

Every function is unsummed: x (..., m) and parameters (..., m, k) give terms (..., m) in nats. `scale` (m,)
holds one constant for each column where a likelihood needs one (the step of whole numbers, the number of
classes). Real columns are densities in standardised units; booleans, categories and whole numbers are masses.
Only a normalised likelihood makes the ELBO a bound on log P(x).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vae_core.grey_bernoulli import grey_bernoulli_log_prob, grey_bernoulli_moments

__all__ = ["LIKELIHOODS", "SPREAD_FLOOR", "TAIL_START", "Likelihood"]

SPREAD_FLOOR = 0.08  # in standardised units; lower floors let anomalies gain from a small predicted spread
TAIL_START = 1e6  # spreads from the mean where the stated tail takes over from the Gaussian
LOG_2PI = math.log(2 * math.pi)
LOGISTIC_FLOOR, LOGISTIC_WIDTH = 0.004, 0.1  # of [0, 1]: one grey level of 256; the usual width


def spread(raw: Tensor) -> Tensor:
    """The decoder's raw output -> a standard deviation above the floor, in standardised units."""
    return SPREAD_FLOOR + F.softplus(raw)


def gaussian_log_prob(x: Tensor, parameters: Tensor, scale: Tensor) -> Tensor:
    """log N(x; mean, spread^2) with mean and raw spread from the decoder.

    Beyond TAIL_START spreads the density goes on as |r|^-2 from the value reached there: finite for every
    finite x, still falling, and the mass it adds (exp(-5e11)) is below any floating-point number.
    """
    deviation = spread(parameters[..., 1])
    r = (x - parameters[..., 0]) / deviation
    constant = r.new_full((), -0.5 * LOG_2PI)
    far = r.is_cuda or bool((r.detach().abs().amax() if r.numel() else r.sum()) > TAIL_START)
    if not far:  # the usual case: then the tail's terms are zeros
        return torch.addcmul(constant, r, r, value=-0.5) - deviation.log()
    near = r.abs().clamp(max=TAIL_START)
    beyond = (r.abs() / TAIL_START).clamp(min=1)
    return torch.addcmul(constant, near, near, value=-0.5) - deviation.log() - 2 * beyond.log()


def whole_log_prob(x: Tensor, parameters: Tensor, scale: Tensor) -> Tensor:
    """log of the Gaussian's mass on [x - scale/2, x + scale/2]: x a whole number in standardised units.

    `scale` is the width of the step 1 there (1 over the training spread). Stable in both tails: wide bins by
    the scaled complementary error function, narrow ones by the midpoint density times its exact first-order
    factor.
    """
    deviation = spread(parameters[..., 1])
    distance = ((x - parameters[..., 0]).abs() / deviation).clamp(max=TAIL_START)
    beyond = ((x - parameters[..., 0]).abs() / (deviation * TAIL_START)).clamp(min=1)
    step = scale / deviation
    y = 0.5 * distance * step
    sinh_ratio = y + torch.log(-torch.expm1(-2 * y.clamp(min=1e-6))) - torch.log(2 * y.clamp(min=1e-6))
    factor = torch.where(y < 1e-3, y.square() / 6, sinh_ratio) - step.square() / 24
    narrow = -0.5 * distance.square() - 0.5 * LOG_2PI + step.log() + factor
    # Wide: Phi(-near) - Phi(-far) = phi(near) (R(near) - exp((near^2 - far^2)/2) R(far)), R Mills' ratio.
    wide_step = step.clamp(min=0.05)
    near = distance - 0.5 * wide_step
    inside = near.clamp(min=0)  # the record's bin does not hold the mean: near > 0
    far = inside + wide_step
    bracket = mills_ratio(inside) - torch.exp(-wide_step * (inside + 0.5 * wide_step)) * mills_ratio(far)
    outer = -0.5 * inside.square() - 0.5 * LOG_2PI + bracket.clamp(min=1e-30).log()
    root_half = math.sqrt(0.5)
    left = (0.5 * wide_step - distance).clamp(min=-1) * root_half
    right = (0.5 * wide_step + distance).clamp(max=30) * root_half
    central = (0.5 * (torch.erf(left) + torch.erf(right))).clamp(min=1e-30).log()
    wide = torch.where(near > 0, outer, central)
    return torch.where(step < 0.05, narrow, wide) - 2 * beyond.log()


def mills_ratio(x: Tensor) -> Tensor:
    """(1 - Phi(x)) / phi(x) of the standard normal, for x >= 0."""
    return math.sqrt(math.pi / 2) * torch.special.erfcx(x * math.sqrt(0.5))


def bernoulli_log_prob(x: Tensor, parameters: Tensor, scale: Tensor) -> Tensor:
    """-binary cross-entropy of x under logits: the lecture's sigmoid outputs. A mass on {0, 1}.

    For grey values in (0, 1) it is the lecture's objective, not a normalised density (see
    continuous_bernoulli).
    """
    logit = parameters[..., 0]
    return x * logit - F.softplus(logit)


def continuous_bernoulli_log_prob(x: Tensor, parameters: Tensor, scale: Tensor) -> Tensor:
    """The Bernoulli's terms plus the log of the constant that makes them a density on [0, 1].

    Loaiza-Ganem & Cunningham (2019); in the logit l the constant is l / tanh(l / 2), which is 2 at l = 0.
    """
    logit = parameters[..., 0]
    half = (0.5 * logit.abs()).clamp(min=1e-3)
    log_constant = torch.where(
        logit.abs() < 0.02,
        math.log(2) + logit.square() / 12,
        torch.log(2 * half) - torch.log(torch.tanh(half)),
    )
    return bernoulli_log_prob(x, parameters, scale) + log_constant


def logistic_scale(raw: Tensor) -> Tensor:
    """The decoder's raw output -> the logistic distribution's scale, in units of the whole range [0, 1]."""
    return LOGISTIC_FLOOR + LOGISTIC_WIDTH * F.softplus(raw)


def discretised_logistic_log_prob(x: Tensor, parameters: Tensor, scale: Tensor) -> Tensor:
    """log of a logistic distribution's mass on a grey level's bin; the tails belong to black and to white.

    The mean is the sigmoid of the first output; `scale` is 1 / L for L levels x = k / (L - 1). Kingma et al.
    (2016). With s the sigmoid, s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)): no difference of near equals.
    """
    mean, width = torch.sigmoid(parameters[..., 0]), logistic_scale(parameters[..., 1])
    half = 0.5 * scale / (1 - scale)
    upper, lower = (x + half - mean) / width, (x - half - mean) / width
    inside = torch.log(-torch.expm1(-2 * half / width))
    below, above = F.logsigmoid(upper), F.logsigmoid(-lower)
    terms = below + above + inside
    return torch.where(x <= half, below, torch.where(x >= 1 - half, above, terms))


CLASS_FLOOR = 1e-4  # shared evenly among a column's classes, so that an unseen category costs finite nats


def class_log_probabilities(parameters: Tensor, scale: Tensor) -> Tensor:
    """Softmax with a floor over a column's own classes (padded ones get -inf): (..., m, k) -> (..., m, k)."""
    floored = (1 - CLASS_FLOOR) * softmax(parameters, scale) + CLASS_FLOOR / scale.unsqueeze(-1)
    return torch.log(floored).masked_fill(_padded(parameters, scale), -torch.inf)


def softmax(parameters: Tensor, scale: Tensor) -> Tensor:
    """Over a column's own classes (padded ones get 0): (..., m, k) -> (..., m, k), laid out as they are."""
    together = parameters.stride(-1) == 1  # a column's classes lie side by side, or one class of all columns
    dim, padded = (-1, _padded(parameters, scale)) if together else (-2, _padded(parameters, scale).T)
    logits = parameters if together else parameters.transpose(-1, -2)
    if padded.is_cuda or bool(padded.any()):
        logits = logits.masked_fill(padded, -torch.inf)
    soft = torch.softmax(logits, dim)
    return soft if together else soft.transpose(-1, -2)


def _padded(parameters: Tensor, scale: Tensor) -> Tensor:
    """Which outputs are no class of their column, but there since another column has more: (m, k)."""
    return torch.arange(parameters.shape[-1], device=parameters.device) >= scale.unsqueeze(-1)


def categorical_log_prob(x: Tensor, parameters: Tensor, scale: Tensor) -> Tensor:
    """log of the probability of class x (0 is 'other': every category not seen in training)."""
    if bool((x >= scale).any()):
        raise ValueError("categorical likelihood: a class number lies outside its column's classes")
    soft = softmax(parameters, scale)
    index = x.long().unsqueeze(-1).expand((*soft.shape[:-1], 1))
    return torch.log((1 - CLASS_FLOOR) * soft.gather(-1, index).squeeze(-1) + CLASS_FLOOR / scale)


def gaussian_moments(parameters: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each column given z."""
    return parameters[..., 0], spread(parameters[..., 1]).square()


def bernoulli_moments(parameters: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each column given z."""
    p = torch.sigmoid(parameters[..., 0])
    return p, p * (1 - p)


def continuous_bernoulli_moments(parameters: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (not the sigmoid) and variance of each column given z."""
    logit = parameters[..., 0]
    small = logit.abs() < 0.05
    safe = torch.where(small, torch.ones_like(logit), logit)
    mean = torch.where(small, 0.5 + logit / 12, 1 / (1 - torch.exp(-safe)) - 1 / safe)
    variance = torch.where(
        small,
        1 / 12 - logit.square() / 240,
        1 / safe.square() - 0.25 / torch.sinh((0.5 * safe).clamp(-40, 40)).square(),
    )
    return mean, variance


def discretised_logistic_moments(parameters: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each pixel given z.

    With h the distance of two levels and f(t) = P(X > t) = s((mean - t) / width), E x is the sum of h f(t)
    over the bins' ends t, E x^2 that of h 2t f(t): both are the midpoint rule on [0, 1], that is the integral
    and the first two terms of Euler and Maclaurin's correction.
    """
    mean, width = torch.sigmoid(parameters[..., 0]), logistic_scale(parameters[..., 1])
    step = scale / (1 - scale)
    h2, h4 = step.square() / 24, 7 * step**4 / 5760
    (f0, slope0, bend0, third0), (f1, slope1, bend1, third1) = (
        _survival_and_slopes(mean - t, width) for t in (0.0, 1.0)
    )
    first = width * (F.softplus(mean / width) - F.softplus((mean - 1) / width))
    first = first - h2 * (slope1 - slope0) + h4 * (third1 - third0)
    low, high = (mean - 20 * width).clamp(min=0), (mean + 20 * width).clamp(max=1)
    second = low.square()  # up to there f(t) is 1
    for node, weight in zip(*_GAUSS_LEGENDRE, strict=True):
        t = low + (high - low) * node
        second = second + (high - low) * weight * 2 * t * torch.sigmoid((mean - t) / width)
    second = second - h2 * 2 * (f1 + slope1 - f0) + h4 * (6 * bend1 + 2 * third1 - 6 * bend0)
    return first, (second - first.square()).clamp(min=0)


def _survival_and_slopes(distance: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """f = s(distance / width) and its first three derivatives in t, where distance = mean - t."""
    f = torch.sigmoid(distance / width)
    v = f * (1 - f)
    return f, -v / width, v * (1 - 2 * f) / width**2, -v * (1 - 6 * v) / width**3


def _gauss_legendre(nodes: int) -> tuple[list[float], list[float]]:
    """Nodes and weights on [0, 1]."""
    at, weights = np.polynomial.legendre.leggauss(nodes)
    return (0.5 * (at + 1)).tolist(), (0.5 * weights).tolist()


_GAUSS_LEGENDRE = _gauss_legendre(64)


def class_moments(parameters: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable class and one minus its probability."""
    best = class_log_probabilities(parameters, scale).max(-1)
    return best.indices.to(parameters.dtype), 1 - best.values.exp()


def mixed_class_moments(parameters: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The same of the equal mixture over the first two dimensions, in double precision."""
    shares = softmax(parameters, scale).mean((0, 1), dtype=torch.float64)
    best = ((1 - CLASS_FLOOR) * shares + CLASS_FLOOR / scale.unsqueeze(-1)).max(-1)
    return best.indices.double(), 1 - best.values


def gaussian_sample(parameters: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    """A draw of each column given z (whole numbers are rounded when they are decoded: the same mass)."""
    mean, variance = gaussian_moments(parameters, scale)
    return mean + variance.sqrt() * torch.randn(mean.shape, generator=generator)


def bernoulli_sample(parameters: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    """0 or 1 for each column given z."""
    return torch.bernoulli(torch.sigmoid(parameters[..., 0]), generator=generator)


def continuous_bernoulli_sample(parameters: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    """A draw by the inverse distribution function, taken at -|logit| and mirrored for stability."""
    logit = parameters[..., 0]
    u = torch.rand(logit.shape, generator=generator)
    low = -logit.abs().clamp(min=1e-4)
    x = torch.log1p(u * torch.expm1(low)) / low
    return torch.where(logit > 0, 1 - x, x)


def grey_bernoulli_sample(parameters: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    """A level of each pixel: the one on whose share of [0, 1] a draw of the continuous Bernoulli falls."""
    drawn = continuous_bernoulli_sample(parameters, scale, generator)
    levels = 1 / scale
    return torch.minimum((drawn * levels).floor(), levels - 1) / (levels - 1)


def discretised_logistic_sample(parameters: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    """A level of each pixel: the nearest one to a draw of the logistic distribution."""
    mean, width = torch.sigmoid(parameters[..., 0]), logistic_scale(parameters[..., 1])
    u = torch.rand(mean.shape, generator=generator).to(mean.dtype).clamp(1e-7, 1 - 1e-7)
    step = scale / (1 - scale)
    return (torch.round((mean + width * torch.logit(u)) / step) * step).clamp(0, 1)


def categorical_sample(parameters: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    """A class for each column given z, never 'other' where another class exists: 'other' has no name."""
    log_p = class_log_probabilities(parameters, scale)
    log_p[..., 0] = torch.where(scale > 1, torch.full_like(log_p[..., 0], -torch.inf), log_p[..., 0])
    p = torch.softmax(log_p, -1)
    flat = torch.multinomial(p.reshape(-1, p.shape[-1]), 1, generator=generator)
    return flat.reshape(p.shape[:-1]).to(parameters.dtype)


@dataclass(frozen=True)
class Likelihood:
    """One choice for P(x_j | z): its terms, its moments and its draws, for columns side by side."""

    name: str
    outputs: int  # decoder outputs for each column; 0: as many as the column has classes
    log_prob_unmasked: Callable[[Tensor, Tensor, Tensor], Tensor]
    moments: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    sample: Callable[[Tensor, Tensor, torch.Generator], Tensor]
    support: tuple[float, float] = (-math.inf, math.inf)
    normalised_on: str = "reals"  # what its terms sum or integrate to 1 over
    takes_float32: bool = False  # x in float64 with the network's own float32 parameters is precise enough

    def log_prob(
        self, x: Tensor, parameters: Tensor, mask: Tensor | None = None, scale: Tensor | None = None
    ) -> Tensor:
        """Terms log P(x_j | z) in nats, unsummed: x (..., m), parameters (..., m, k) -> (..., m).

        Where `mask` is False the cell is missing: its term is left out (0) and what stands there changes
        nothing, gradients included. Raises ValueError for an observed value outside the support: such a value
        has no log-likelihood to rank by.
        """
        scale = torch.ones(x.shape[-1], dtype=x.dtype, device=x.device) if scale is None else scale
        low, high = self.support
        if mask is not None:
            x = torch.where(mask, x, torch.zeros_like(x))  # 0 lies in every support
        if low > -math.inf or high < math.inf:
            outside = (x < low) | (x > high)
            if bool(outside.any()):
                raise ValueError(
                    f"{self.name} likelihood: {int(outside.sum())} values lie outside [{low:g}, {high:g}]"
                )
        terms = self.log_prob_unmasked(x, parameters, scale)
        return terms if mask is None else torch.where(mask, terms, torch.zeros_like(terms))


LIKELIHOODS: dict[str, Likelihood] = {
    likelihood.name: likelihood
    for likelihood in (
        Likelihood("gaussian", 2, gaussian_log_prob, gaussian_moments, gaussian_sample, takes_float32=True),
        Likelihood(
            "whole", 2, whole_log_prob, gaussian_moments, gaussian_sample, normalised_on="whole numbers"
        ),
        Likelihood(
            "bernoulli", 1, bernoulli_log_prob, bernoulli_moments, bernoulli_sample, (0.0, 1.0), "{0, 1}"
        ),
        Likelihood(
            "continuous_bernoulli",
            1,
            continuous_bernoulli_log_prob,
            continuous_bernoulli_moments,
            continuous_bernoulli_sample,
            (0.0, 1.0),
            "[0, 1]",
        ),
        Likelihood(
            "grey_bernoulli",
            1,
            grey_bernoulli_log_prob,
            grey_bernoulli_moments,
            grey_bernoulli_sample,
            (0.0, 1.0),
            "grey levels",
        ),
        Likelihood(
            "discretised_logistic",
            2,
            discretised_logistic_log_prob,
            discretised_logistic_moments,
            discretised_logistic_sample,
            (0.0, 1.0),
            "grey levels",
        ),
        Likelihood(
            "categorical",
            0,
            categorical_log_prob,
            class_moments,
            categorical_sample,
            (0.0, math.inf),
            "classes",
        ),
    )
}
