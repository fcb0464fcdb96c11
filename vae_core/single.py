"""Log-likelihood terms of records in double precision under decoder outputs in single: how scoring computes.

The same formulas as in `likelihoods`, in single precision, arranged so that nothing is lost: a value is held
as the sum of two single-precision numbers, so that its distance from a predicted mean is as exact as a
subtraction in double precision rounded to single. Terms are then right to a few 1e-7 of their size. Functions
take x (n, m), parameters (..., n, m, k) and scale (m,) and give terms (..., n, m) in nats; no gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vae_core.likelihoods import CLASS_FLOOR, SPREAD_FLOOR, TAIL_START

__all__ = [
    "TERMS", "Split", "bernoulli_log_prob", "categorical_log_prob", "gaussian_log_prob", "log_erfcx",
    "whole_log_prob",
]  # fmt: skip

LARGEST = 1e30  # of what single precision takes; beyond it a term goes on falling as the tail does
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
ROOT_HALF = math.sqrt(0.5)
# A bin of the normal distribution, h spreads wide and d spreads from the mean, has the mass h phi(d) times
# 1 + sum_r h^(2r) He_2r(d) / (4^r (2r + 1)!), with Hermite's polynomials: Taylor's series around its middle.
# In s = h^2 and q = (h d)^2, up to r = 4: with s <= 1 and q <= 4 what is left out is below 1e-7.
NARROW, STEEP = 1.0, 4.0
_R = (24.0, 1920.0, 322_560.0, 92_897_280.0)  # 4^r (2r + 1)!
POWERS_OF_S = (105 / _R[3], -15 / _R[2], 3 / _R[1], -1 / _R[0])  # the terms without q, less one s
POWERS_OF_Q: tuple[tuple[float, ...], ...] = (
    (-420 / _R[3], 45 / _R[2], -6 / _R[1], 1 / _R[0]),
    (210 / _R[3], -15 / _R[2], 1 / _R[1]),
    (-28 / _R[3], 1 / _R[2]),
    (1 / _R[3],),
)


class Split(NamedTuple):
    """Values as the sums of two numbers in single precision, to 2^-48 of their size."""

    high: Tensor
    low: Tensor
    beyond: Tensor | None = None  # log of how many times a value lies beyond LARGEST; None: none does

    @classmethod
    def of(cls, x: Tensor) -> Split:
        """The parts of values (n, m) in double precision."""
        inside = x.clamp(-LARGEST, LARGEST)
        high = inside.float()
        low = (inside - high.double()).float()
        size = x.abs()
        if not bool((size > LARGEST).any()):
            return cls(high, low)
        return cls(high, low, (size / LARGEST).clamp(min=1).log().float())

    def of_features(self, columns: slice | list[int]) -> Split:
        beyond = None if self.beyond is None else self.beyond[:, columns]
        return Split(self.high[:, columns], self.low[:, columns], beyond)


def _standardised(x: Split, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """(x - mean) / spread and the spread itself, from the decoder's mean and raw spread."""
    # Copied first: functions of numbers that do not lie side by side took several times as long.
    deviation = F.softplus(parameters[..., 1].contiguous()).add_(SPREAD_FLOOR)
    return (x.high - parameters[..., 0].contiguous()).add_(x.low).div_(deviation), deviation


def gaussian_log_prob(x: Split, parameters: Tensor, scale: Tensor) -> Tensor:
    """log N(x; mean, spread^2), going on as |r|^-2 beyond TAIL_START spreads r."""
    r, deviation = _standardised(x, parameters)
    far = _far(r.abs(), x)
    if far is not None:
        r.clamp_(-TAIL_START, TAIL_START)
    terms = deviation.log_().add_(HALF_LOG_2PI).addcmul_(r, r, value=0.5).neg_()
    return terms if far is None else terms.sub_(far, alpha=2)


def _far(distance: Tensor, x: Split) -> Tensor | None:
    """log of how many times a value lies beyond TAIL_START spreads; None where none does, the usual case."""
    if not distance.numel() or not bool(distance.amax() > TAIL_START):
        return None
    far = (distance / TAIL_START).clamp_(min=1).log_()
    return far if x.beyond is None else far.add_(x.beyond)


def whole_log_prob(x: Split, parameters: Tensor, scale: Tensor) -> Tensor:
    """log of the Gaussian's mass on [x - scale/2, x + scale/2], with the same tail."""
    distance, deviation = _standardised(x, parameters)
    distance.abs_()
    far = _far(distance, x)
    if far is not None:
        distance.clamp_(max=TAIL_START)
    step = (scale.float() / deviation).expand_as(distance)
    steep = torch.mul(step, distance).square_()
    other = (step > NARROW).logical_or_(steep > STEEP)
    terms = _narrow(distance, step, steep)
    if bool(other.any()):
        place = other.flatten().nonzero().squeeze(1)
        wide = _wide(distance.flatten()[place], step.flatten()[place])
        terms.view(-1)[place] = wide
    return terms if far is None else terms.sub_(far, alpha=2)


def _narrow(distance: Tensor, step: Tensor, q: Tensor) -> Tensor:
    """Taylor's series around the bin's middle; where it does not hold the result means nothing."""
    s = step.square()
    series = torch.add(_horner(POWERS_OF_Q[2], s), q, alpha=POWERS_OF_Q[3][0])
    for coefficients in POWERS_OF_Q[1::-1]:  # Horner's rule in q, each coefficient by Horner's rule in s
        series = _horner(coefficients, s).addcmul_(series, q)
    series = series.mul_(q).addcmul_(s, _horner(POWERS_OF_S, s))
    return series.add_(1).mul_(step).log_().sub_(HALF_LOG_2PI).addcmul_(distance, distance, value=-0.5)


def _horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """The polynomial with these coefficients, of the highest power first: one pass for each power."""
    first, *rest = coefficients
    result = torch.add(torch.full((), rest[0]), x, alpha=first)
    for coefficient in rest[1:]:
        result = torch.addcmul(torch.full((), coefficient), result, x)
    return result


def _wide(distance: Tensor, step: Tensor) -> Tensor:
    """By tails Q(z) = erfcx(z / sqrt 2) exp(-z^2 / 2) / 2 at the bin's near and far end."""
    half = 0.5 * step
    near, far = distance - half, distance + half
    inside = near < 0  # the bin holds the mean
    near.abs_()
    log_near, log_far = log_erfcx(near * ROOT_HALF), log_erfcx(far * ROOT_HALF)
    squares = near.square().mul_(-0.5)
    ratio = -torch.expm1(log_far - log_near - step * distance)  # 1 - Q(far) / Q(near)
    outer = squares + log_near + torch.log(ratio.clamp_(min=1e-30)) - math.log(2)
    tails = torch.exp(squares + log_near).add_(torch.exp(far.square_().mul_(-0.5) + log_far))
    return torch.where(inside, torch.log1p(tails.mul_(-0.5).clamp_(min=-0.9)), outer)


# Press et al., Numerical Recipes, section 6.2: erfcc, right to 1.2e-7 everywhere.
CHEBYSHEV = (
    0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196,
    1.00002368, -1.26551223,
)  # fmt: skip


def log_erfcx(x: Tensor) -> Tensor:
    """log of the scaled complementary error function exp(x^2) erfc(x), for x >= 0."""
    t = 1 / (1 + 0.5 * x)
    return _horner(CHEBYSHEV, t).add_(t.log())


def bernoulli_log_prob(x: Split, parameters: Tensor, scale: Tensor) -> Tensor:
    """-binary cross-entropy of x under logits."""
    logit = parameters[..., 0].contiguous()
    return F.softplus(logit).neg_().addcmul_(x.high, logit)


def categorical_log_prob(x: Split, parameters: Tensor, scale: Tensor) -> Tensor:
    """log of the probability of class x, mixed with a floor shared evenly among the column's classes."""
    classes = scale.float()
    padded = torch.arange(parameters.shape[-1]) >= classes.unsqueeze(-1)
    logits = parameters.masked_fill(padded, -torch.inf) if bool(padded.any()) else parameters
    index = x.high.long().unsqueeze(-1).expand((*logits.shape[:-1], 1))
    p = torch.softmax(logits, -1).gather(-1, index).squeeze(-1)
    return p.mul_(1 - CLASS_FLOOR).add_(CLASS_FLOOR / classes).log_()


# By a likelihood's name; the others are computed in double precision.
TERMS: dict[str, Callable[[Split, Tensor, Tensor], Tensor]] = {
    "gaussian": gaussian_log_prob,
    "whole": whole_log_prob,
    "bernoulli": bernoulli_log_prob,
    "categorical": categorical_log_prob,
}
