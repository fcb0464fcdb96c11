"""Fit a model to record batches: gradients of the ELBO from a linear start, the best state kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vae_core import devices
from vae_core.balanced_start import start_balanced
from vae_core.calibration import Calibration
from vae_core.committee import with_companions
from vae_core.descent import Progress, Run, TrainingStopped, optimise, stopped
from vae_core.encoding import TableEncoding
from vae_core.errors import InputError
from vae_core.imputation import range_factors
from vae_core.left_out import learn_vectors
from vae_core.linear_start import set_input_scaling, start_linear
from vae_core.minibatches import InMemory, Minibatches, Stream, Streamed, tensors
from vae_core.model import VAE, Architecture
from vae_core.noise import noise_blocks, noise_of
from vae_core.records import MOST_CELLS, STREAM_CELLS, TrainingRecords, check_enough, gather
from vae_core.scoring import Contributions, FittedModel

__all__ = ["Progress", "Settings", "TrainingStopped", "fit", "trimmed_mean"]

PRESETS = ("default", "lecture")
NUMBERS = (int, float, np.integer, np.floating)
ON_GREY_LEVELS = ("grey_bernoulli", "discretised_logistic")  # of images
EPOCHS, FEWEST_STEPS, MOST_STEPS = 30, 600, 6000
MOST_LATENTS = 64
CHECKED = 4000  # held-out records at each look: 10,000 took longer than the steps between
# A stream is read at least once; of very many records a step takes more, so that the steps stay this few.
MOST_STREAMED_STEPS = 24_000


@dataclass(frozen=True)
class Settings:
    """How to train. The defaults are the recipe; `preset="lecture"` is the lecture's VAE.

    None means: chosen from the data by the rule in `resolved`.
    """

    preset: str = "default"
    # For real columns: None (Gaussian), "bernoulli", "continuous_bernoulli"; for pixels see vae_core.images.
    likelihood: str | None = None
    latent: int | None = None
    hidden: tuple[int, ...] = (64, 64)
    members: int = 1  # VAEs in the batched ensemble: more cost more and found no more beside the companions
    steps: int | None = None
    batch_size: int = 256
    learning_rate: float | None = None
    positivity: str = "exp"  # "exp" | "square": how the encoder's outputs give positive variances
    draws: int = 8  # at scoring: twice as many cost a third more time and find no more
    columns_weight: float | None = (
        None  # of the independent-columns member, against the VAE's 1; None: balanced
    )
    kernel_weight: float | None = None  # of the kernel density, which holds training records; the same
    selection_fraction: float = 0.1  # held out to choose the best state
    calibration_fraction: float = 0.1  # held out from fitting and choosing, for p-values
    random_state: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset is one of {', '.join(PRESETS)}; got {self.preset!r}")
        if self.positivity not in ("exp", "square"):
            raise ValueError(f'positivity is "exp" or "square"; got {self.positivity!r}')
        if self.likelihood not in (None, "bernoulli", "continuous_bernoulli", *ON_GREY_LEVELS):
            raise ValueError(
                "likelihood is None, 'bernoulli' or 'continuous_bernoulli', and for images also "
                f"'grey_bernoulli' or 'discretised_logistic'; got {self.likelihood!r}"
            )
        for name in ("columns_weight", "kernel_weight"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, NUMBERS) and 0 <= value < math.inf):
                raise ValueError(f"{name} must be 0 or more; got {value!r}")
        if self.kernel_weight and (self.preset == "lecture" or self.likelihood is not None):
            raise ValueError(
                "kernel_weight is for columns in standardised units: leave preset and likelihood out"
            )
        for name in ("latent", "members", "steps", "batch_size", "draws"):
            value = getattr(self, name)
            if value is not None and not _at_least_one(value):
                raise ValueError(f"{name} must be a whole number and at least 1; got {value!r}")
        self._check_the_rest()

    def _check_the_rest(self) -> None:
        rate, hidden = self.learning_rate, self.hidden
        if rate is not None and not (isinstance(rate, NUMBERS) and 0 < rate < math.inf):
            raise ValueError(f"learning_rate must be a number above 0; got {rate!r}")
        if not isinstance(hidden, list | tuple) or not hidden or not all(map(_at_least_one, hidden)):
            raise ValueError(f"hidden is a sequence of widths, each at least 1; got {hidden!r}")
        object.__setattr__(self, "hidden", tuple(hidden))
        try:
            torch.device("cpu" if self.device == "auto" else self.device)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"device is auto, cpu or cuda; got {self.device!r}") from error

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"hidden": list(self.hidden)}


def _at_least_one(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def fit(
    batches: Callable[[], Iterator[pa.RecordBatch]],
    *,
    ids: Sequence[str] = (),
    time: str | None = None,
    kinds: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    progress: Callable[[Progress], None] | None = None,
    checkpoint: Path | None = None,
    stream: Stream | None = None,
) -> FittedModel:
    """Train on record batches (`batches()` starts a new pass) and return the fitted, calibrated model.

    The rows are held in memory up to 20 million cells. Of more, `stream` is trained on where it is given
    (called with the number of a pass, it yields all records with their `_record_id`), else a uniform sample.
    Held-out records choose the best state, others calibrate. With `checkpoint` (a folder) an interrupted
    training goes on where it stopped, bit for bit on a CPU. In a `torch.distributed` group all processes
    train one model, and each returns it. Raises InputError for input that cannot be learnt from and
    TrainingStopped when the loss is not finite.
    """
    settings = settings or Settings()
    if settings.likelihood in ON_GREY_LEVELS:
        fix = "A table takes continuous_bernoulli"
        raise InputError(f"{settings.likelihood} is a likelihood of pixels", fix=fix)
    encoding = TableEncoding.fit(
        batches(),
        ids=ids,
        time=time,
        kinds=kinds,
        preset=settings.preset,
        likelihood=settings.likelihood,
        random_state=settings.random_state,
    )
    check_enough(encoding.described[0].rows)
    fractions = settings.selection_fraction, settings.calibration_fraction
    encoding, held_out = learn_vectors(encoding, batches, fractions, settings.random_state)
    cells = encoding.described[0].rows * len(encoding.features)
    streams = stream is not None and cells > MOST_CELLS
    most = STREAM_CELLS if streams else MOST_CELLS
    records = gather(
        batches(), encoding, *fractions, settings.random_state, most_cells=most, know_all=streams
    )
    if held_out is not None:
        records = held_out.encode(records, batches)
    run = _prepare(encoding, records, settings, stream if streams else None)
    start = _state(run.vae)
    history = optimise(run, progress, checkpoint)
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
        members=settings.members,
        context=encoding.context_width,
        indicators=[
            j
            for j, f in enumerate(features)
            if encoding.described[f.column].missing and (j == 0 or features[j - 1].column != f.column)
        ],
        activation="relu" if lecture else "silu",
        positivity=settings.positivity,
        linear_skip=not lecture,
        standardise_inputs=not lecture,
        by_size=any(f.likelihood == "categorical" for f in features),
    )


def _prepare(
    encoding: TableEncoding,
    records: TrainingRecords,
    settings: Settings,
    stream: Stream | None = None,
) -> Run:
    generator = torch.Generator().manual_seed(settings.random_state)
    vae = VAE(_architecture(encoding, settings), generator=generator)
    step = sum(p.numel() for p in vae.parameters()) * settings.batch_size
    device = devices.for_training(settings.device, step)
    vae = vae.to(device)
    values, mask, context = tensors(records.fit, device)
    if vae.architecture.standardise_inputs:
        set_input_scaling(vae, values, mask)
    inputs = vae.inputs(values, mask)
    if vae.architecture.linear_skip:
        start_linear(vae, inputs, context)
    else:
        start_balanced(vae, values, mask, context)
    heldout = None
    if len(records.selection.values):
        v, k, c = (part[:CHECKED] for part in tensors(records.selection, device))
        heldout = (v, k, vae.inputs(v, k), c)
    n, seed = len(values), settings.random_state
    automatic = min(MOST_STEPS, max(FEWEST_STEPS, EPOCHS * n // settings.batch_size))
    if stream is None:
        batches: Minibatches = InMemory((values, mask, inputs, context), settings.batch_size, seed)
    else:
        rows, size = len(records.identities), settings.batch_size
        while rows > MOST_STREAMED_STEPS * size:
            size *= 2
        automatic = max(MOST_STEPS, -(-rows // size))
        known = f"{rows} {np.bitwise_xor.reduce(records.identities)}"
        batches = Streamed(
            stream, encoding, vae, records.held_out, size=size, seed=seed, device=device, identity=known
        )
    return Run(
        vae=vae,
        batches=batches,
        heldout=heldout,
        noise=noise_blocks(1, 4, vae.architecture.latent, seed=seed + 1)[0].to(device),
        steps=settings.steps or automatic,
        learning_rate=settings.learning_rate or (1e-3 if settings.preset == "lecture" else 4e-3),
        seed=seed,
    )


def _state(vae: VAE) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in vae.state_dict().items()}


def _finish(encoding: TableEncoding, records: TrainingRecords, settings: Settings, run: Run) -> FittedModel:
    """The model on the CPU, with companions, noise, and calibration on records held out from all of it."""
    model = FittedModel(
        encoding=encoding,
        vae=run.vae.cpu().eval(),
        noise=noise_of(settings.draws, run.vae.architecture.latent, seed=settings.random_state),
        settings=settings.to_json(),
        trained_on=records.identities,
    )
    weights = _companion_weights(settings)
    model = with_companions(model, [records.fit, records.selection], weights, settings.random_state)
    reference = records.reference()
    parts = model.evaluate(reference)
    if not np.isfinite(parts.scores.bound).all():
        raise stopped("a held-out record's bound is", run, run.steps)
    model.alone = {
        name: _calibrate(model.with_members([name]), records) for name in model.weights if model.companions
    }
    model.calibration = _calibrate(model, records, parts)
    heldout = len(records.calibration.values) > 0
    if heldout:
        model.calibration.ranges = range_factors(
            model, records.calibration, random_state=settings.random_state
        )
    model.summary |= {
        "rows": {
            "fit": len(records.fit.values),
            "selection": len(records.selection.values),
            "calibration": len(records.calibration.values),
            "seen": records.seen,
            "streamed": isinstance(run.batches, Streamed),
        },
        "features": len(encoding.features),
        "steps": run.steps,
        "likelihoods": {encoding.described[f.column].name: f.likelihood for f in encoding.features},
        "log_jacobian": encoding.log_jacobian,
        "heldout_elbo": trimmed_mean(parts.scores.elbo),
        "heldout_is": "calibration" if heldout else "fit",
    }
    return model


def _companion_weights(settings: Settings) -> dict[str, float | None]:
    """The lecture's VAE stands alone unless asked; kernels are for columns in standardised units."""
    lecture = settings.preset == "lecture"
    kernel = None if settings.likelihood is None and not lecture else 0.0
    return {
        "columns": 0.0 if lecture and settings.columns_weight is None else settings.columns_weight,
        "kernel": kernel if settings.kernel_weight is None else settings.kernel_weight,
    }


def _calibrate(
    model: FittedModel, records: TrainingRecords, parts: Contributions | None = None
) -> Calibration:
    """Scores of held-out records (of the fitted ones if none are), and each contribution's median there."""
    parts = parts or model.evaluate(records.reference())
    typical = dict(zip(model.encoding.columns, np.median(parts.nats, axis=0).tolist(), strict=True))
    typical["kl"] = float(np.median(parts.kl_nats))
    heldout = len(records.calibration.values) > 0
    scores = parts.scores.anomaly_score if heldout else np.empty(0)
    return Calibration.fit(scores, typical, squared=model.tilted)


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
    model.summary["linear_start_elbo"] = trimmed_mean(before)
    model.summary["gain_over_linear_start"] = trimmed_mean(gain)
    model.summary["better_than_linear_start"] = bool(trimmed_mean(gain) > 0)


def trimmed_mean(nats: np.ndarray) -> float:
    """Mean without the lowest and highest 1 %: one wild held-out record must not decide a comparison."""
    ordered = np.sort(nats)
    cut = int(0.01 * len(ordered))
    return float(ordered[cut : len(ordered) - cut].mean()) if len(ordered) else math.nan
