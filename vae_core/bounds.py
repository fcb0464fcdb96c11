"""Lower bounds on log P(x): the KL divergence, reparameterization, the ELBO and the importance bound.

Symbols as in the lecture: x in R^m a record, z in R^p its code, Q(z|x) = N(mean, diag(variance)),
P(z) = N(0, I), P(x|z) the decoder's likelihood. All figures are in nats, summed (never averaged) over the
m features and the p latents. Networks carry log-variances: in float32 exp(-120) is 0 and its log is -inf.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "elbo",
    "importance_bound",
    "kl_standard_normal",
    "log_normal",
    "log_weights",
    "reparameterize",
]


def kl_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL( N(mean, diag(exp(log_variance))) || N(0, I) ) in nats, summed over p latents: (..., p) -> (...).

    Kingma & Welling (2014), appendix B; summed in float64.

    >>> kl_standard_normal(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2))
    tensor([2.5000], dtype=torch.float64)
    """
    terms = mean.square() + log_variance.exp() - log_variance - 1
    return 0.5 * terms.sum(-1, dtype=torch.float64)


def reparameterize(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """z = mean + noise * standard deviation, with noise ~ N(0, I) drawn outside the graph; shapes broadcast.

    Kingma & Welling (2014), section 2.4: z is a differentiable function of mean and log_variance.

    >>> reparameterize(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([[0.5], [-0.5]]))
    tensor([[1.5000],
            [0.5000]])
    """
    return mean + noise * (0.5 * log_variance).exp()


def elbo(log_likelihood: Tensor, kl: Tensor) -> Tensor:
    """The evidence lower bound -KL(Q || P) + E_Q[log P(x|z)] in nats: (s, ...) and (...) -> (...).

    `log_likelihood` holds log P(x|z) for s draws of z (s = 1: the lecture's one-sample estimate), already
    summed over the features. Low = anomalous. In expectation over the draws it is at most log P(x).

    >>> elbo(torch.tensor([[-3.0], [-5.0]]), torch.tensor([1.0]))
    tensor([-5.])
    """
    return log_likelihood.mean(0) - kl


def importance_bound(log_weights: Tensor) -> Tensor:
    """The importance-weighted bound log( mean over s draws of the weights ) in nats: (s, n) -> (n,).

    `log_weights` are log P(x|z) + log P(z) - log Q(z|x) for z ~ Q. In expectation over the draws it lies
    between the ELBO and log P(x), and rises with s. Burda, Grosse & Salakhutdinov (2016), equation 8.

    >>> importance_bound(torch.tensor([[-3.0], [-3.0]]))
    tensor([-3.])
    """
    return torch.logsumexp(log_weights, 0) - math.log(log_weights.shape[0])


def log_normal(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(z; mean, diag(exp(log_variance))) in nats, summed over the last axis: (..., p) -> (...).

    >>> log_normal(torch.zeros(1, 2), torch.zeros(2), torch.zeros(2))
    tensor([-1.8379], dtype=torch.float64)
    """
    squares = (z - mean).square() * (-log_variance).exp()
    return -0.5 * (squares + log_variance + math.log(2 * math.pi)).sum(-1, dtype=torch.float64)


def log_weights(log_likelihood: Tensor, mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """log P(x|z) + log P(z) - log Q(z|x) for z = mean + noise * deviation: the importance bound's input.

    Shapes: log_likelihood (s, n), mean and log_variance (n, p), noise (s, 1 or n, p) -> (s, n), in nats.
    log Q is computed from the noise itself, so it is exact however small the variance.
    """
    z = reparameterize(mean, log_variance, noise)
    log_prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1, dtype=torch.float64)
    log_q = -0.5 * (noise.square() + log_variance + math.log(2 * math.pi)).sum(-1, dtype=torch.float64)
    return log_likelihood + log_prior - log_q
