"""Log-likelihood terms in single precision: how scoring computes, and training the mass of whole numbers.

The same formulas as in `likelihoods`, in single precision, arranged so that nothing is lost: a value is held
as the sum of two single-precision numbers, so that its distance from a predicted mean is as exact as a
subtraction in double precision rounded to single. Terms are then right to a few 1e-7 of their size. Functions
take x (n, m), parameters (..., n, m, k) and scale (m,) and give terms (..., n, m) in nats. They work in place
and have no gradients, but for `whole_with_gradient`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vae_core.likelihoods import CLASS_FLOOR, SPREAD_FLOOR, TAIL_START, softmax

__all__ = [
    "TERMS", "Split", "bernoulli_log_prob", "categorical_log_prob", "gaussian_log_prob", "log_erfcx",
    "whole_log_prob", "whole_with_gradient",
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
        high = x.float()
        if not high.numel() or bool(high.abs().amax() < LARGEST):
            return cls(high, (x - high.double()).float())
        inside = x.clamp(-LARGEST, LARGEST)
        high = inside.float()
        low = (inside - high.double()).float()
        return cls(high, low, (x.abs() / LARGEST).clamp(min=1).log().float())

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
    r, deviation = _standardised(x, parameters)
    distance = r.abs_()
    far = _far(distance, x)
    if far is not None:
        distance.clamp_(max=TAIL_START)
    terms = _log_mass(distance, scale.float() / deviation, slopes=False)[0]
    return terms if far is None else terms.sub_(far, alpha=2)


class _WholeMass(torch.autograd.Function):
    """The same for training, with its gradient in closed form: values, means and raw spreads (..., m)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, raw: Tensor, scale: Tensor) -> Tensor:
        deviation = F.softplus(raw).add_(SPREAD_FLOOR)
        r = (x - mean).div_(deviation)
        distance = r.abs()
        near = distance.clamp(max=TAIL_START)
        step = scale / deviation
        terms, by_distance, by_step = _log_mass(near, step, slopes=True)
        terms -= 2 * (distance / TAIL_START).clamp_(min=1).log_()
        by_distance = torch.where(distance > TAIL_START, -2 / distance, by_distance)
        by_deviation = by_distance.mul(distance).addcmul_(by_step, step).div_(deviation).neg_()
        ctx.save_for_backward(
            by_distance.mul_(r.sign_()).div_(deviation).neg_(), by_deviation.mul_(raw.sigmoid())
        )
        return terms

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        by_mean, by_raw = ctx.saved_tensors
        return None, gradient * by_mean, gradient * by_raw, None


def whole_with_gradient(x: Tensor, parameters: Tensor, scale: Tensor) -> Tensor:
    """`likelihoods.whole_log_prob` in single precision, a gradient costing next to nothing: for training.

    x (..., m), parameters (..., m, 2), scale (m,) -> terms (..., m) in nats.
    """
    terms: Tensor = _WholeMass.apply(
        x, parameters[..., 0].contiguous(), parameters[..., 1].contiguous(), scale
    )
    return terms


def _log_mass(distance: Tensor, step: Tensor, *, slopes: bool) -> list[Tensor]:
    """log mass of a bin, `distance` from the mean and `step` wide; its slopes by these two if asked."""
    steep = torch.mul(step, distance).square_()
    other = (step > NARROW).logical_or_(steep > STEEP)
    results = _narrow(distance, step, steep, slopes)
    if bool(other.any()):
        place = other.flatten().nonzero().squeeze(1)
        wide = _wide(distance.flatten()[place], step.expand_as(distance).flatten()[place], slopes)
        for result, those in zip(results, wide, strict=True):
            result.view(-1)[place] = those
    return results


def _narrow(distance: Tensor, step: Tensor, q: Tensor, slopes: bool) -> list[Tensor]:
    """Taylor's series around the bin's middle; where it does not hold the results mean nothing."""
    s = step.square()
    series = torch.add(_horner(POWERS_OF_Q[2], s), q, alpha=POWERS_OF_Q[3][0])
    for coefficients in POWERS_OF_Q[1::-1]:  # Horner's rule in q, each coefficient by Horner's rule in s
        series = _horner(coefficients, s).addcmul_(series, q)
    series = series.mul_(q).addcmul_(s, _horner(POWERS_OF_S, s))  # what has no q
    relative = series.add_(1).mul_(step)  # the mass over the density in the middle
    terms = relative.log().sub_(HALF_LOG_2PI).addcmul_(distance, distance, value=-0.5)
    if not slopes:
        return [terms]
    # The density at an end of the bin over that in the middle is exp(+-h d / 2 - h^2 / 8).
    both = torch.exp(s.mul_(-0.125)).div_(relative)
    half = (0.5 * step * distance).clamp_(max=2)
    return [terms, torch.sinh(half).mul_(both).mul_(-2), torch.cosh(half).mul_(both)]


def _horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """The polynomial with these coefficients, of the highest power first: one pass for each power."""
    first, *rest = coefficients
    result = torch.add(x.new_full((), rest[0]), x, alpha=first)
    for coefficient in rest[1:]:
        result = torch.addcmul(x.new_full((), coefficient), result, x)
    return result


def _wide(distance: Tensor, step: Tensor, slopes: bool) -> list[Tensor]:
    """By tails Q(z) = erfcx(z / sqrt 2) exp(-z^2 / 2) / 2 at the bin's near and far end."""
    half = 0.5 * step
    near, far = distance - half, distance + half
    inside = near < 0  # the bin holds the mean
    near.abs_()
    log_near, log_far = log_erfcx(near * ROOT_HALF), log_erfcx(far * ROOT_HALF)
    squares, far_squares = near.square().mul_(-0.5), far.square().mul_(-0.5)
    drop = -step * distance  # log phi(far) / phi(near)
    ratio = -torch.expm1(log_far - log_near + drop)  # 1 - Q(far) / Q(near)
    ratio.clamp_(min=1e-30)
    outer = squares + log_near + torch.log(ratio) - math.log(2)
    tails = torch.exp(squares + log_near).add_(torch.exp(far_squares + log_far))
    central = torch.log1p(tails.mul_(-0.5).clamp_(min=-0.9))
    terms = torch.where(inside, central, outer)
    if not slopes:
        return [terms]
    # The densities at both ends over the mass; of the outer kind phi(z) / Q(z) = sqrt(2 / pi) / erfcx.
    at_near = torch.where(
        inside, squares - HALF_LOG_2PI - central, 0.5 * math.log(2 / math.pi) - log_near - ratio.log()
    ).exp_()
    at_far = torch.where(inside, (far_squares - HALF_LOG_2PI - central).exp(), at_near * drop.exp_())
    return [terms, at_far - at_near, (at_far + at_near).mul_(0.5)]


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
    index = x.high.long().unsqueeze(-1).expand((*parameters.shape[:-1], 1))
    p = softmax(parameters, classes).gather(-1, index).squeeze(-1)
    return p.mul_(1 - CLASS_FLOOR).add_(CLASS_FLOOR / classes).log_()


# By a likelihood's name; the others are computed in double precision.
TERMS: dict[str, Callable[[Split, Tensor, Tensor], Tensor]] = {
    "gaussian": gaussian_log_prob,
    "whole": whole_log_prob,
    "bernoulli": bernoulli_log_prob,
    "categorical": categorical_log_prob,
}
