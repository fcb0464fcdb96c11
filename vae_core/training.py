"""Fit a model to record batches: gradients of the ELBO from a linear start, the best state kept."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vae_core.bounds import noise_blocks
from vae_core.calibration import Calibration
from vae_core.checkpoint import Checkpoint
from vae_core.encoding import Encoded, TableEncoding
from vae_core.linear_start import set_input_scaling, start_linear
from vae_core.members import IndependentColumns
from vae_core.model import VAE, Architecture
from vae_core.records import TrainingRecords, gather
from vae_core.scoring import BLOCKS, FittedModel

__all__ = ["Progress", "Settings", "TrainingStopped", "fit"]

PRESETS = ("default", "lecture")
EPOCHS, FEWEST_STEPS, MOST_STEPS = 30, 600, 6000
WARM_UP = 0.05  # share of the steps in which the learning rate rises linearly
# Lifts the ranking where training data is contaminated, costs nothing where it is clean.
MOST_LATENTS = 64
COLUMNS_WEIGHT = 1 / 3
CHECKS = 20  # looks at the held-out records


class TrainingStopped(RuntimeError):
    """Training ended without a model, for the cause that the message names. Nothing is registered then."""


@dataclass(frozen=True)
class Settings:
    """How to train. The defaults are the recipe; `preset="lecture"` is the lecture's VAE.

    None means: chosen from the data by the rule in `resolved`.
    """

    preset: str = "default"
    likelihood: str | None = None  # for real columns: None (Gaussian) | "bernoulli" | "continuous_bernoulli"
    latent: int | None = None
    hidden: tuple[int, ...] = (64, 64)
    members: int | None = None  # VAEs in the batched ensemble
    steps: int | None = None
    batch_size: int = 256
    learning_rate: float | None = None
    positivity: str = "exp"  # "exp" | "square": how the encoder's outputs give positive variances
    draws: int = 16  # at scoring
    columns_weight: float | None = None  # prior weight of the independent-columns member, against the VAE's 1
    selection_fraction: float = 0.1  # held out to choose the best state
    calibration_fraction: float = 0.1  # held out from fitting and choosing, for p-values
    random_state: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset is one of {', '.join(PRESETS)}; got {self.preset!r}")
        if self.positivity not in ("exp", "square"):
            raise ValueError(f'positivity is "exp" or "square"; got {self.positivity!r}')
        if self.likelihood not in (None, "bernoulli", "continuous_bernoulli"):
            raise ValueError(
                f"likelihood is None, 'bernoulli' or 'continuous_bernoulli'; got {self.likelihood!r}"
            )
        if self.columns_weight is not None and self.columns_weight < 0:
            raise ValueError(f"columns_weight must be 0 or more; got {self.columns_weight}")
        for name in ("latent", "members", "steps", "batch_size", "draws"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"hidden": list(self.hidden)}


@dataclass(frozen=True)
class Progress:
    """Where training stands: ELBOs are means over records, in nats; higher is better."""

    step: int
    steps: int
    train_elbo: float
    heldout_elbo: float  # nan where nothing is held out
    best_step: int


@dataclass
class _Run:
    """Tensors on the device and the schedule of one training."""

    vae: VAE
    values: Tensor
    mask: Tensor
    inputs: Tensor
    context: Tensor
    heldout: tuple[Tensor, Tensor, Tensor, Tensor] | None
    noise: Tensor
    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    order: tuple[int, Tensor] | None = None  # the epoch at hand and its order of the records


def fit(
    batches: Callable[[], Iterator[pa.RecordBatch]],
    *,
    ids: Sequence[str] = (),
    time: str | None = None,
    kinds: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    progress: Callable[[Progress], None] | None = None,
    checkpoint: Path | None = None,
) -> FittedModel:
    """Train on record batches (`batches()` starts a new pass) and return the fitted, calibrated model.

    The rows are held in memory up to 20 million cells; of more, a uniform sample is. Held-out records choose
    the best state, others calibrate. With `checkpoint` (a folder) an interrupted training goes on where it
    stopped, bit for bit on a CPU. Raises InputError for input that cannot be learnt from and TrainingStopped
    when the loss is not finite.
    """
    settings = settings or Settings()
    encoding = TableEncoding.fit(
        batches(),
        ids=ids,
        time=time,
        kinds=kinds,
        preset=settings.preset,
        likelihood=settings.likelihood,
        random_state=settings.random_state,
    )
    records = gather(
        batches(), encoding, settings.selection_fraction, settings.calibration_fraction, settings.random_state
    )
    device = (
        torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if settings.device == "auto"
        else torch.device(settings.device)
    )
    run = _prepare(encoding, records, settings, device)
    start = _state(run.vae)
    history = _optimise(run, progress, checkpoint)
    model = _finish(encoding, records, settings, run)
    model.summary["history"] = history
    _compare_with_start(model, records, start)
    return model


def _architecture(encoding: TableEncoding, settings: Settings) -> Architecture:
    """The network's shape: as many latents as features, up to 64; the lecture's code is smaller.

    A full latent space keeps the closed-form start's density in every direction.
    """
    features = encoding.features
    lecture = settings.preset == "lecture"
    m = len(features)
    latent = settings.latent or (min(32, math.ceil(m / 2)) if lecture else min(MOST_LATENTS, m))
    return Architecture(
        likelihoods=[f.likelihood for f in features],
        scales=[f.scale for f in features],
        latent=latent,
        hidden=list(settings.hidden),
        members=settings.members or (1 if lecture else 3),
        context=encoding.context_width,
        indicators=[
            j for j, f in enumerate(features) if encoding.described[f.column].missing and f.category <= 0
        ],
        activation="relu" if lecture else "silu",
        positivity=settings.positivity,
        linear_skip=not lecture,
        standardise_inputs=not lecture,
    )


def _prepare(
    encoding: TableEncoding, records: TrainingRecords, settings: Settings, device: torch.device
) -> _Run:
    generator = torch.Generator().manual_seed(settings.random_state)
    vae = VAE(_architecture(encoding, settings), generator=generator).to(device)
    values, mask, context = _tensors(records.fit, device)
    if vae.architecture.standardise_inputs:
        set_input_scaling(vae, values, mask)
    inputs = vae.inputs(values, mask)
    if vae.architecture.linear_skip:
        start_linear(vae, inputs, context)
    heldout = None
    if len(records.selection.values):
        v, k, c = _tensors(records.selection, device)
        heldout = (v, k, vae.inputs(v, k), c)
    n = len(values)
    automatic = min(MOST_STEPS, max(FEWEST_STEPS, EPOCHS * n // settings.batch_size))
    return _Run(
        vae=vae,
        values=values,
        mask=mask,
        inputs=inputs,
        context=context,
        heldout=heldout,
        noise=noise_blocks(1, 4, vae.architecture.latent, seed=settings.random_state + 1)[0].to(device),
        steps=settings.steps or automatic,
        batch_size=min(settings.batch_size, n),
        learning_rate=settings.learning_rate or (1e-3 if settings.preset == "lecture" else 4e-3),
        seed=settings.random_state,
    )


def _tensors(encoded: Encoded, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    values = torch.from_numpy(encoded.values.astype(np.float32)).to(device)
    return values, torch.from_numpy(encoded.mask).to(device), torch.from_numpy(encoded.context).to(device)


def _optimise(
    run: _Run, progress: Callable[[Progress], None] | None, checkpoint: Path | None
) -> list[dict[str, float]]:
    """Adam with a ramp and a cosine; leaves the VAE in the state that was best on the held-out records."""
    optimiser = torch.optim.Adam(run.vae.parameters(), lr=run.learning_rate, fused=True)
    interval = max(1, run.steps // CHECKS)
    keeper = Checkpoint(checkpoint, run.vae, optimiser, run=_identity(run) if checkpoint else {})
    step, best_step, best, history = keeper.resume()
    if step == 0:
        best = _heldout_elbo(run)
        keeper.keep_best()
    total = 0.0
    while step < run.steps:
        for group in optimiser.param_groups:
            group["lr"] = run.learning_rate * _schedule(step, run.steps)
        loss = _step(run, optimiser, step)
        total += loss
        step += 1
        if not math.isfinite(loss):
            raise _stopped("the loss is", run, step)
        if step % interval == 0 or step == run.steps:
            heldout = _heldout_elbo(run)
            if run.heldout is not None and not math.isfinite(heldout):
                raise _stopped("the held-out ELBO is", run, step)
            if not all(bool(torch.isfinite(p).all()) for p in run.vae.parameters()):
                raise _stopped("the parameters are", run, step)
            if run.heldout is None or heldout > best:
                best, best_step = heldout, step
                keeper.keep_best()
            since = step - (history[-1]["step"] if history else 0)
            history.append({"step": step, "train_elbo": -total / since, "heldout_elbo": heldout})
            total = 0.0
            keeper.save(step, best_step, best, history)
            if progress is not None:
                progress(Progress(step, run.steps, history[-1]["train_elbo"], heldout, best_step))
    keeper.restore_best()
    return history


def _stopped(what: str, run: _Run, step: int) -> TrainingStopped:
    return TrainingStopped(
        f"{what} not finite at step {step} of {run.steps} (learning rate {run.learning_rate:g}). "
        "Try a lower learning rate, or look at the columns with the widest range."
    )


def _identity(run: _Run) -> dict[str, Any]:
    """What the result of a training follows from, beside the architecture: for checkpoints."""
    content = hashlib.sha256()
    for tensor in (run.values, run.mask, run.context, *(run.heldout or ())):
        content.update(tensor.cpu().numpy().tobytes())
    schedule = {"steps": run.steps, "batch_size": run.batch_size, "learning_rate": run.learning_rate}
    return schedule | {"seed": run.seed, "records": content.hexdigest()}


def _step(run: _Run, optimiser: torch.optim.Optimizer, step: int) -> float:
    """One step on a random slice; the order and the noise follow from the seed and the step alone."""
    n, size = len(run.values), run.batch_size
    per_epoch = max(1, n // size)
    epoch, place = divmod(step, per_epoch)
    if run.order is None or run.order[0] != epoch:  # 40 ms for a million records: once an epoch
        generator = torch.Generator().manual_seed(run.seed * 1_000_003 + epoch)
        run.order = epoch, torch.randperm(n, generator=generator)
    rows = run.order[1][place * size : (place + 1) * size].to(run.values.device)
    a = run.vae.architecture
    generator = torch.Generator().manual_seed((run.seed + 7) * 1_000_003 + step)
    noise = torch.randn((a.members, len(rows), a.latent), generator=generator).to(run.values.device)
    bound = run.vae(run.values[rows], run.mask[rows], run.inputs[rows], run.context[rows], noise)
    loss = -bound.mean(1).sum()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return float(loss.detach()) / a.members


def _schedule(step: int, steps: int) -> float:
    ramp = max(1.0, WARM_UP * steps)
    return min(1.0, (step + 1) / ramp) * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def _heldout_elbo(run: _Run) -> float:
    """Interquartile mean of the selection records' ELBOs, 4 shared draws: a few wild ones are no trend."""
    if run.heldout is None:
        return math.nan
    values, mask, inputs, context = run.heldout
    bounds = []
    for first in range(0, len(values), 2048):
        part = slice(first, first + 2048)
        noise = run.noise.unsqueeze(1)
        draws = [run.vae(values[part], mask[part], inputs[part], context[part], eps) for eps in noise]
        bounds.append(torch.stack(draws).mean((0, 1)))
    ordered = torch.cat(bounds).sort().values
    quarter = len(ordered) // 4
    return float(ordered[quarter : len(ordered) - quarter].mean())


def _state(vae: VAE) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in vae.state_dict().items()}


def _finish(encoding: TableEncoding, records: TrainingRecords, settings: Settings, run: _Run) -> FittedModel:
    """The model on the CPU, with companions, noise, and calibration on records held out from all of it."""
    weights, companions = {"vae": 1.0}, {}
    weight = settings.columns_weight
    if weight is None:
        weight = 0.0 if settings.preset == "lecture" else COLUMNS_WEIGHT
    if weight > 0:
        weights = {"vae": 1 / (1 + weight), "columns": weight / (1 + weight)}
        companions["columns"] = IndependentColumns.fit(
            records.fit.values, records.fit.mask, encoding.features
        )
    model = FittedModel(
        encoding=encoding,
        vae=run.vae.cpu().eval(),
        noise=noise_blocks(BLOCKS, 1, run.vae.architecture.latent, seed=settings.random_state),
        weights=weights,
        companions=companions,
        settings=settings.to_json(),
        trained_on=records.identities,
    ).with_draws(settings.draws)
    reference = records.reference()
    parts = model.evaluate(reference)
    if not np.isfinite(parts.scores.bound).all():
        raise _stopped("a held-out record's bound is", run, run.steps)
    model.alone = {
        name: _calibrate(model.with_members([name]), records) for name in weights if len(weights) > 1
    }
    model.calibration = _calibrate(model, records)
    heldout = len(records.calibration.values) > 0
    model.summary = {
        "rows": {
            "fit": len(records.fit.values),
            "selection": len(records.selection.values),
            "calibration": len(records.calibration.values),
            "seen": records.seen,
        },
        "features": len(encoding.features),
        "steps": run.steps,
        "likelihoods": {encoding.described[f.column].name: f.likelihood for f in encoding.features},
        "log_jacobian": encoding.log_jacobian,
        "heldout_elbo": _trimmed_mean(parts.scores.elbo),
        "heldout_is": "calibration" if heldout else "fit",
    }
    return model


def _calibrate(model: FittedModel, records: TrainingRecords) -> Calibration:
    """Scores of held-out records (of the fitted ones if none are), and each contribution's median there."""
    parts = model.evaluate(records.reference())
    typical = dict(zip(model.encoding.columns, np.median(parts.nats, axis=0).tolist(), strict=True))
    typical["kl"] = float(np.median(parts.kl_nats))
    heldout = len(records.calibration.values) > 0
    return Calibration.fit(parts.scores.anomaly_score if heldout else np.empty(0), typical)


def _compare_with_start(model: FittedModel, records: TrainingRecords, start: dict[str, Tensor]) -> None:
    """Score the linear start on the same records: how much training gained over it, in nats a record."""
    if not model.vae.architecture.linear_skip:
        return
    reference = records.reference()
    trained = model.evaluate(reference).scores.elbo
    linear = VAE(model.vae.architecture)
    linear.load_state_dict({name: tensor.cpu() for name, tensor in start.items()})
    for head in (linear.encoder_mean, linear.encoder_variance, linear.decoder_head):
        # The hidden layers' small random start is no part of the linear model.
        torch.nn.init.zeros_(head.weight)
    before = FittedModel(model.encoding, linear.eval(), model.noise).evaluate(reference).scores.elbo
    gain = trained - before
    model.summary["linear_start_elbo"] = _trimmed_mean(before)
    model.summary["gain_over_linear_start"] = _trimmed_mean(gain)
    model.summary["better_than_linear_start"] = bool(_trimmed_mean(gain) > 0)


def _trimmed_mean(nats: np.ndarray) -> float:
    """Mean without the lowest and highest 1 %: one wild held-out record must not decide a comparison."""
    ordered = np.sort(nats)
    cut = int(0.01 * len(ordered))
    return float(ordered[cut : len(ordered) - cut].mean()) if len(ordered) else math.nan
