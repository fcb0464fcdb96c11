"""Fit a model of images: the VAE, the lecture's VAE for the excess, and what calibrates the score's parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import torch

from vae_core import devices
from vae_core.calibration import Calibration
from vae_core.descent import Run, optimise
from vae_core.images.encoding import ImageEncoding
from vae_core.images.model import MOST_KNOWN, PARTS, ImageModel, ImageScores, PartScale, brightness
from vae_core.images.pictures import training_picture
from vae_core.images.pixels import Shape
from vae_core.likelihoods import LIKELIHOODS, Likelihood
from vae_core.minibatches import InMemory, tensors
from vae_core.model import VAE, Architecture
from vae_core.noise import noise_blocks, noise_of
from vae_core.ppca import ProbabilisticPCA
from vae_core.records import TrainingRecords, check_enough, gather, take
from vae_core.training import CHECKED, Progress, Settings, TrainingStopped, trimmed_mean

__all__ = ["IMAGE_LIKELIHOODS", "fit"]

IMAGE_LIKELIHOODS = ("grey_bernoulli", "continuous_bernoulli", "bernoulli", "discretised_logistic")
LATENTS = 16
HIDDEN = (256, 128)
CHANNELS = 16  # after the first convolution
LARGEST_FLAT = 28 * 28  # up to so many pixels an MLP is as good and faster on a CPU
EPOCHS, FEWEST_STEPS, MOST_STEPS = 20, 1000, 6000
BATCH, LEARNING_RATE, DRAWS = 64, 4e-3, 8
MOST_PPCA = 2000  # pixels; beyond it the baseline's decomposition takes longer than the training


def fit(
    batches: Callable[[], Iterator[pa.RecordBatch]],
    shape: Shape,
    *,
    ids: Sequence[str] = (),
    settings: Settings | None = None,
    progress: Callable[[Progress], None] | None = None,
    checkpoint: Path | None = None,
) -> ImageModel:
    """Train on batches of raw pixels of one shape and return the fitted, calibrated model.

    Settings of None mean: 16 latents, an MLP up to 28 x 28 values and convolutions beyond, 20 epochs of 64
    images but at least 1,000 steps. Raises TrainingStopped when the loss is not finite.
    """
    settings = settings or Settings()
    encoding = ImageEncoding(shape, ids=ids)
    fractions = settings.selection_fraction, settings.calibration_fraction
    records = gather(batches(), encoding, *fractions, settings.random_state)  # type: ignore[arg-type]
    check_enough(records.seen)
    name = likelihood_of(settings)
    vae, history, pictures = _fit_vae(encoding, records, settings, name, progress, checkpoint)
    lecture = None
    if name != "bernoulli":
        folder = checkpoint.with_name(f"{checkpoint.name}-lecture") if checkpoint else None
        lecture, _, _ = _fit_vae(encoding, records, settings, "bernoulli", None, folder)
    model = _finish(encoding, records, settings, vae, lecture)
    model.summary["history"] = history
    model.pictures = pictures
    return model


def likelihood_of(settings: Settings) -> str:
    """The likelihood of the pixels: the one that is asked for; the lecture's Bernoulli for its preset."""
    if settings.preset == "lecture":
        return "bernoulli"
    return settings.likelihood or IMAGE_LIKELIHOODS[0]


def architecture(shape: Shape, settings: Settings, likelihood: str) -> Architecture:
    """The network for images of this shape: an MLP for small ones, else convolutions."""
    hidden = list(settings.hidden) if settings.hidden != Settings.hidden else list(HIDDEN)
    return Architecture(
        likelihoods=[likelihood],
        scales=[1 / shape.levels],
        latent=settings.latent or LATENTS,
        hidden=hidden,
        members=settings.members,
        activation="relu" if settings.preset == "lecture" else "silu",
        positivity=settings.positivity,
        linear_skip=False,
        standardise_inputs=False,
        image=[shape.height, shape.width, shape.channels],
        channels=CHANNELS if shape.pixels > LARGEST_FLAT else 0,
    )


def _fit_vae(
    encoding: ImageEncoding,
    records: TrainingRecords,
    settings: Settings,
    likelihood: str,
    progress: Callable[[Progress], None] | None,
    checkpoint: Path | None,
) -> tuple[VAE, list[dict[str, float]], list[tuple[int, bytes]]]:
    """One VAE with this likelihood, in its best state, with its curve and pictures of how it came about."""
    generator = torch.Generator().manual_seed(settings.random_state)
    vae = VAE(architecture(encoding.shape, settings, likelihood), generator=generator)
    _start_at_the_mean(vae, records.fit.values)
    count = len(records.fit.values)
    steps = settings.steps or min(MOST_STEPS, max(FEWEST_STEPS, EPOCHS * count // BATCH))
    run = _run(vae, records, settings, steps)
    pictures: list[tuple[int, bytes]] = []
    shown = records.selection.values if len(records.selection.values) else records.fit.values

    def on_check(state: Progress) -> None:
        pictures.append((state.step, training_picture(run.vae, encoding, shown[:8], settings.random_state)))
        if progress is not None:
            progress(state)

    history = optimise(run, on_check if progress is not None else None, checkpoint)
    return run.vae.cpu().eval(), history, pictures


def _run(vae: VAE, records: TrainingRecords, settings: Settings, steps: int) -> Run:
    """What the gradient steps need, on the device."""
    enough = vae.architecture.features >= devices.ENOUGH_PIXELS
    device = devices.for_training(settings.device, devices.ENOUGH if enough else 0)
    seed = settings.random_state
    vae = vae.to(device)
    values, mask, context = tensors(records.fit, device)
    heldout = None
    if len(records.selection.values):
        v, k, c = (part[:CHECKED] for part in tensors(records.selection, device))
        heldout = (v, k, vae.inputs(v, k), c)
    inputs = vae.inputs(values, mask)
    return Run(
        vae=vae,
        batches=InMemory((values, mask, inputs, context), min(settings.batch_size, BATCH), seed),
        heldout=heldout,
        noise=noise_blocks(1, 4, vae.architecture.latent, seed=seed + 1)[0].to(device),
        steps=steps,
        learning_rate=settings.learning_rate or LEARNING_RATE,
        seed=seed,
    )


@torch.no_grad()
def _start_at_the_mean(vae: VAE, values: np.ndarray) -> None:
    """Centre the inputs on the mean image, and let the decoder begin at it."""
    mean = torch.from_numpy(values.mean(0, dtype=np.float64))
    vae.input_mean.copy_(mean.float())
    vae.input_spread.fill_(max(float(values.std()), 0.05))
    likelihood = LIKELIHOODS[vae.architecture.likelihoods[0]]
    logits = _logits(likelihood, mean.clamp(0.02, 0.98), vae.scale)
    bias = vae.pixel_bias if vae.architecture.channels else vae.decoder_head.bias
    bias[..., :: likelihood.outputs] = logits.float()


def _logits(likelihood: Likelihood, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The first output at which each pixel's expected value is `mean`, by bisection: (m,) -> (m,)."""
    low, high = torch.full_like(mean, -60.0), torch.full_like(mean, 60.0)
    for _ in range(50):
        middle = 0.5 * (low + high)
        parameters = torch.zeros(len(mean), likelihood.outputs, dtype=mean.dtype)
        parameters[:, 0] = middle
        below = likelihood.moments(parameters, scale)[0] < mean
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low


def _finish(
    encoding: ImageEncoding, records: TrainingRecords, settings: Settings, vae: VAE, lecture: VAE | None
) -> ImageModel:
    """The model with its noise, the parts' scales and the p-values' calibration from held-out images."""
    draws = settings.draws if settings.draws != Settings.draws else DRAWS
    chosen = np.random.default_rng(settings.random_state).permutation(len(records.fit.values))[:MOST_KNOWN]
    model = ImageModel(
        encoding=encoding,
        vae=vae,
        noise=noise_of(draws, vae.architecture.latent, seed=settings.random_state),
        lecture=lecture,
        known_brightness=brightness(encoding.levels_of(records.fit.values[np.sort(chosen)])),
        settings=settings.to_json(),
        trained_on=records.identities,
    )
    heldout = [r for r in (records.selection, records.calibration) if len(r.values)]
    # The best state is chosen on the selection images, which moves their scores far less than so few
    # calibration images alone would scatter.
    reference = [cast(ImageScores, model.evaluate(r).scores) for r in heldout or [records.fit]]
    model.scales = {
        name: PartScale.fit(np.concatenate([s.parts[name] for s in reference]), weight)
        for name, weight in PARTS.items()
    }
    parts = model.evaluate(records.reference())
    if not np.isfinite(parts.scores.anomaly_score).all():
        raise TrainingStopped("a held-out image's score is not finite. Try a lower learning rate.")
    typical = dict(zip(encoding.regions, np.median(parts.nats, axis=0).tolist(), strict=True))
    typical["kl"] = float(np.median(parts.kl_nats))
    calibrated = len(records.calibration.values) > 0
    scores = {"combined": parts.scores.anomaly_score, "elbo": -parts.scores.elbo}
    calibrations = {
        name: Calibration.fit(own if calibrated else np.empty(0), typical) for name, own in scores.items()
    }
    model.calibration, model.alone = calibrations["combined"], calibrations
    model.summary = _summary(encoding, records, vae, parts.scores.elbo)
    return model


def _summary(
    encoding: ImageEncoding, records: TrainingRecords, vae: VAE, elbo: np.ndarray
) -> dict[str, object]:
    shape, name = encoding.shape, vae.architecture.likelihoods[0]
    summary: dict[str, object] = {
        "rows": {
            "fit": len(records.fit.values),
            "selection": len(records.selection.values),
            "calibration": len(records.calibration.values),
            "seen": records.seen,
        },
        "features": shape.pixels,
        "likelihoods": {"image": name},
        "log_jacobian": 0.0,
        "heldout_elbo": trimmed_mean(elbo),
        "heldout_is": "calibration" if len(records.calibration.values) else "fit",
        "image": shape.to_json(),
        "network": "convolutions" if vae.architecture.channels else "mlp",
    }
    if LIKELIHOODS[name].normalised_on == "grey levels":
        summary["bits_per_value"] = -trimmed_mean(elbo) / np.log(2) / shape.pixels
        if shape.pixels <= MOST_PPCA:
            nats = _ppca(records, vae.architecture.latent, shape)
            if nats <= 0:  # a normal density narrower than a level is no mass: there is nothing to compare
                summary["ppca"] = nats
    return summary


def _ppca(records: TrainingRecords, latents: int, shape: Shape) -> float:
    """Probabilistic PCA's mean log P(x) of the held-out images, as a mass: density times width."""
    fit = records.fit if len(records.fit.values) <= MOST_KNOWN else take(records.fit, np.arange(MOST_KNOWN))
    model = ProbabilisticPCA(max(1, min(latents, shape.pixels - 1, len(fit.values) - 1)))
    log_density = model.fit(fit.values.astype(np.float64)).score_samples(
        records.reference().values.astype(np.float64)
    )
    return trimmed_mean(log_density) - shape.pixels * float(np.log(shape.levels - 1))
