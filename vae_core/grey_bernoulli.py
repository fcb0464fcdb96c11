"""The continuous Bernoulli on grey levels: a mass on L levels, exponential in the level.

With x = k / (L - 1), k < L, and s = 1 / L, the mass on level k in the logit l is that of the continuous
Bernoulli (Loaiza-Ganem & Cunningham 2019) on [k/L, (k+1)/L]:

    P(x | l) = exp(l k / L) (exp(l / L) - 1) / (exp(l) - 1)
             = exp(-|l| (1 - s) r) (1 - exp(-|l| s)) / (1 - exp(-|l|)),

r = 1 - x for l > 0, else x: the distance from the likelier end. Nothing in the second form overflows or is a
difference of near equals, and the ratio lies in [1/L, 1].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["grey_bernoulli_log_prob", "grey_bernoulli_moments"]

SMALLEST = 1e-30  # a logit's size, at least: the ratio is 1/L there to the last digit, at 0 it is 0/0
NEAR = 0.3  # a logit's size below which the mean is taken from its series: 1/l - 1/l has no digits left


def grey_bernoulli_log_prob(x: Tensor, parameters: Tensor, scale: Tensor) -> Tensor:
    """log P(x | l) of grey levels x = k / (L - 1) under logits l; `scale` is s = 1 / L (L 256 or 65,536).

    The same network and moments as the continuous Bernoulli, but never above 0 nats, where the density has no
    upper limit at a black pixel.
    """
    x, logit = torch.broadcast_tensors(x, parameters[..., 0])
    terms: Tensor = _LogMass.apply(x, logit, scale)
    return terms


class _LogMass(torch.autograd.Function):
    """The log mass and its slope in the logit, (1 - s) (x - E x), in few passes over the numbers.

    Of an image these passes are what scoring and training spend much of their time on: so in place, and
    without torch.where, which takes as long as an exponential.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, logit: Tensor, scale: Tensor) -> Tensor:
        size = logit.abs().clamp_(min=SMALLEST)
        level = (size * -scale).expm1_()  # minus (1 - exp(-|l| s))
        whole = size.neg_().expm1_()
        terms = (level / whole).log_()
        distance = logit.clone().gt_(0).sub_(x).mul_(logit)  # |l| r: (1 - x) l above 0, else -x l
        ctx.save_for_backward(x, logit, scale, level, whole)
        return terms.sub_(distance.mul_(1 - scale))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        x, logit, scale, level, whole = ctx.saved_tensors
        # The normaliser's slope: s / (1 - exp(-|l| s)) - 1 / (1 - exp(-|l|)) + (1 - s) / 2, times l's sign.
        slope = (scale / level).sub_(whole.reciprocal()).neg_().add_(0.5 * (1 - scale)).mul_(logit.sign())
        far = logit.abs().sub_(NEAR).gt_(0)
        slope = _series(logit.clamp(-NEAR, NEAR), scale).lerp_(slope, far)
        return None, slope.addcmul_(x - 0.5, 1 - scale).mul_(gradient), None


def _series(logit: Tensor, scale: Tensor) -> Tensor:
    """Minus the slope of log(sinh(l / 2) / sinh(l s / 2)): its series, to 1e-8 up to NEAR."""
    squared = logit.square()
    third = squared.mul(-(1 - scale**6) / 30240).add_((1 - scale**4) / 720)
    return third.mul_(squared).sub_((1 - scale**2) / 12).mul_(logit)


def grey_bernoulli_moments(parameters: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each pixel given z: those of a geometric distribution cut off after L levels.

    With u = l / L: mean k = L / (1 - exp(-l)) - 1 / (1 - exp(-u)), in closed form also for the variance.
    """
    logit = parameters[..., 0]
    levels = 1 / scale
    safe = torch.where(logit.abs() < 0.02, torch.full_like(logit, 0.02), logit)
    u = safe * scale
    mean = levels / -torch.expm1(-safe) - 1 / -torch.expm1(-u)
    variance = (
        0.25 / torch.sinh((0.5 * u).clamp(-40, 40)).square()
        - 0.25 * (levels / torch.sinh((0.5 * safe).clamp(-40, 40))).square()
    )
    small = logit.abs() < 0.02
    flat = (levels.square() - 1) / 12  # variance at l = 0: of L even levels; the slope of the mean there
    mean = torch.where(small, 0.5 * (levels - 1) + logit * flat * scale, mean)
    variance = torch.where(small, flat.expand_as(variance), variance)
    step = 1 / (levels - 1)
    return mean * step, variance * step.square()
