"""Gradient ascent on the ELBO: Adam with a ramp and a cosine, the best state on held-out records kept.

All parameters lie in one buffer, and so do their gradients: one fused step of Adam, and one sum over all
processes where several train together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vae_core import devices, distributed
from vae_core.adam import FlatAdam
from vae_core.bounds import kl_standard_normal
from vae_core.checkpoint import Checkpoint
from vae_core.minibatches import Minibatches
from vae_core.model import VAE

__all__ = ["Progress", "Run", "TrainingStopped", "optimise", "stopped"]

WARM_UP = 0.05  # share of the steps in which the learning rate rises linearly
CHECKS = 20  # looks at the held-out records
CHECKED_AT_ONCE = 2048  # held-out records


class TrainingStopped(RuntimeError):
    """Training ended without a model, for the cause that the message names. Nothing is registered then."""


@dataclass(frozen=True)
class Progress:
    """Where training stands: ELBOs are means over records, in nats; higher is better."""

    step: int
    steps: int
    train_elbo: float
    heldout_elbo: float  # nan where nothing is held out
    best_step: int


@dataclass
class Run:
    """What one training works on, and its schedule."""

    vae: VAE
    batches: Minibatches
    heldout: tuple[Tensor, Tensor, Tensor, Tensor] | None  # values, mask, inputs, context
    noise: Tensor  # (draws, p): for the held-out records
    steps: int
    learning_rate: float
    seed: int


@devices.exact()
def optimise(
    run: Run, progress: Callable[[Progress], None] | None, checkpoint: Path | None
) -> list[dict[str, float]]:
    """Train; leaves the VAE in the state that was best on the held-out records, and returns the history."""
    flat = _in_one_buffer(run.vae)
    optimiser = FlatAdam(flat, run.learning_rate)
    interval = max(1, run.steps // CHECKS)
    keeper = Checkpoint(checkpoint, run.vae, optimiser, run=_identity(run) if checkpoint else {})
    step, best_step, best, history = keeper.resume()
    distributed.same_everywhere(flat.data)
    if step == 0:
        best = _heldout_elbo(run)
        keeper.keep_best()
    total = torch.zeros((), dtype=torch.float64, device=flat.device)
    while step < run.steps:
        optimiser.rate = run.learning_rate * _schedule(step, run.steps)
        total += _step(run, flat, optimiser, step)
        step += 1
        if step % interval == 0 or step == run.steps:
            loss = float(distributed.sum_over_all(total))
            heldout = _heldout_elbo(run)
            _check(run, step, loss, heldout, flat)
            if run.heldout is None or heldout > best:
                best, best_step = heldout, step
                keeper.keep_best()
            since = step - (history[-1]["step"] if history else 0)
            history.append({"step": step, "train_elbo": -loss / since, "heldout_elbo": heldout})
            total = torch.zeros_like(total)
            keeper.save(step, best_step, best, history)
            if progress is not None:
                progress(Progress(step, run.steps, history[-1]["train_elbo"], heldout, best_step))
    keeper.restore_best()
    return history


def _in_one_buffer(vae: VAE) -> nn.Parameter:
    """Make every parameter, and its gradient, a view of one buffer, which is what the optimiser sees."""
    parameters = list(vae.parameters())
    flat = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
    flat.grad = torch.zeros_like(flat)
    first = 0
    for p in parameters:
        span = slice(first, first + p.numel())
        p.data, p.grad = flat.data[span].view_as(p), flat.grad[span].view_as(p)
        first = span.stop
    return flat


def _step(run: Run, flat: nn.Parameter, optimiser: FlatAdam, step: int) -> Tensor:
    """One step; the records and the noise follow from the seed and the step alone. Returns the loss."""
    batch = run.batches.take(step)
    a = run.vae.architecture
    number, processes = distributed.place()
    generator = torch.Generator().manual_seed((run.seed + 7) * 1_000_003 + step)
    noise = torch.randn((a.members, batch.together, a.latent), generator=generator)
    if processes > 1:
        noise = noise[:, number::processes][:, : len(batch.values)].contiguous()
    bound = run.vae(batch.values, batch.mask, batch.inputs, batch.context, noise.to(flat.device))
    loss = -bound.sum() / batch.together  # a sum over members, a mean over the records of all processes
    assert flat.grad is not None
    flat.grad.zero_()
    loss.backward()
    distributed.sum_over_all(flat.grad)
    optimiser.step()
    return loss.detach() / a.members


def _check(run: Run, step: int, loss: float, heldout: float, flat: Tensor) -> None:
    if not math.isfinite(loss):
        raise stopped("the loss is", run, step)
    if run.heldout is not None and not math.isfinite(heldout):
        raise stopped("the held-out ELBO is", run, step)
    if not bool(torch.isfinite(flat).all()):
        raise stopped("the parameters are", run, step)


def stopped(what: str, run: Run, step: int) -> TrainingStopped:
    """The error for figures that are not finite."""
    return TrainingStopped(
        f"{what} not finite at step {step} of {run.steps} (learning rate {run.learning_rate:g}). "
        "Try a lower learning rate, or look at the columns with the widest range."
    )


def _identity(run: Run) -> dict[str, Any]:
    """What the result of a training follows from, beside the architecture: for checkpoints."""
    schedule = {"steps": run.steps, "batch_size": run.batches.size, "learning_rate": run.learning_rate}
    heldout = [float(part.double().sum()) for part in run.heldout or ()]
    return schedule | {"seed": run.seed, "records": run.batches.digest(), "heldout": heldout}


def _schedule(step: int, steps: int) -> float:
    ramp = max(1.0, WARM_UP * steps)
    return min(1.0, (step + 1) / ramp) * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def _heldout_elbo(run: Run) -> float:
    """Interquartile mean of the selection records' ELBOs, 4 shared draws: a few wild ones are no trend."""
    if run.heldout is None:
        return math.nan
    bounds = []
    for values, mask, inputs, context in zip(
        *(part.split(CHECKED_AT_ONCE) for part in run.heldout), strict=True
    ):
        mean, log_variance = run.vae.encode(inputs, context)
        parameters = run.vae.decode_draws(mean, log_variance, context, run.noise)
        log_likelihood = run.vae.log_prob(values, parameters, mask).sum(-1)
        bounds.append(log_likelihood.mean((0, 1)) - kl_standard_normal(mean, log_variance).mean(0))
    ordered = torch.cat(bounds).sort().values
    quarter = len(ordered) // 4
    return float(ordered[quarter : len(ordered) - quarter].mean())
