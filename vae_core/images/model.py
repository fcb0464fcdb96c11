"""A fitted model of images: the ELBO, and the score that does not call simple foreign images normal.

A density model gives simple images a high density, whatever they show (Nalisnick et al. 2019; Serra et al.
2020). So the ranking combines four parts, each calibrated on held-out images: the ELBO; the ELBO less the
image's PNG code length; the excess of the lecture's VAE over the best that any parameters could do for this
very image; and how far the image's brightness lies from training's. The largest counts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import xlog1py, xlogy
from torch import Tensor

from vae_core import devices
from vae_core.bounds import kl_standard_normal, reparameterize
from vae_core.calibration import Calibration
from vae_core.encoding import Encoded
from vae_core.errors import InputError, one_line
from vae_core.images.complexity import png_bits
from vae_core.images.encoding import ImageEncoding
from vae_core.likelihoods import LIKELIHOODS
from vae_core.model import VAE, Architecture
from vae_core.scoring import Contributions, FittedModel, Scores

__all__ = ["PARTS", "RANKINGS", "ImageModel", "ImageScores", "PartScale", "brightness", "per_image"]

# Weights of the parts' z-scores, settled on Fashion-MNIST and five of ten one-class digits (docs/images.md).
PARTS = {"excess": 1.0, "elbo": 0.5, "complexity": 0.5, "levels": 0.5}
RANKINGS = ("combined", "elbo")
SHARES = (0.5, 0.75, 0.9, 0.97, 1.0)  # of an image's pixels: quantiles that describe its brightness
NEIGHBOURS = 5
BATCHES = {"cpu": (64, 1_000_000), "cuda": (1024, 16_000_000)}  # a micro-batch: images, decoder outputs
MOST_KNOWN = 1000  # training images whose brightness is kept


@dataclass
class ImageScores(Scores):
    """Scores of n images; the parts in nats or bits, `part` the name of the one that counted."""

    elbo_excess: np.ndarray = field(default_factory=lambda: np.empty(0))
    complexity_bits: np.ndarray = field(default_factory=lambda: np.empty(0))
    part: np.ndarray = field(default_factory=lambda: np.empty(0, object))
    parts: dict[str, np.ndarray] = field(default_factory=dict)  # high = anomalous, before they are scaled

    @classmethod
    def joined(cls, pieces: Sequence[Any]) -> Self:
        """Scores of several batches as one."""
        arrays = {f.name: [getattr(p, f.name) for p in pieces] for f in fields(cls) if f.name != "parts"}
        parts = {name: np.concatenate([p.parts[name] for p in pieces]) for name in pieces[0].parts}
        return cls(**{name: np.concatenate(own) for name, own in arrays.items()}, parts=parts)


@dataclass(frozen=True)
class PartScale:
    """A part's median and its distance from there to the 90 % point, on held-out images, and its weight."""

    middle: float
    spread: float
    weight: float

    @classmethod
    def fit(cls, values: np.ndarray, weight: float) -> PartScale:
        middle, high = np.quantile(values, [0.5, 0.9])
        # So few images that half of them are equal: their range, and at last their size, stand in.
        spread = (high - middle) or np.ptp(values) or 1e-3 * max(1.0, abs(middle))
        return cls(float(middle), float(spread), weight)

    def z(self, values: np.ndarray) -> np.ndarray:
        """How many such distances above the median, weighted: (n,) -> (n,)."""
        return self.weight * (values - self.middle) / self.spread


def brightness(images: np.ndarray) -> np.ndarray:
    """An image's brightness, 7 numbers for each channel: (n, h, w, c) -> (n, 7 c), in fractions of white."""
    white = np.iinfo(images.dtype).max
    flat = images.reshape(len(images), -1, images.shape[3]).astype(np.float32) / np.float32(white)
    ordered = np.sort(flat, axis=1)
    last = ordered.shape[1] - 1
    quantiles = [ordered[:, round(share * last)] for share in SHARES]
    return np.concatenate([flat.mean(1, dtype=np.float64), flat.std(1, dtype=np.float64), *quantiles], axis=1)


@dataclass
class ImageModel(FittedModel):
    """A fitted model of images. `lecture` is the VAE on Bernoulli terms that the excess comes from."""

    encoding: ImageEncoding  # type: ignore[assignment]
    lecture: VAE | None = None  # None: the VAE itself is on Bernoulli terms
    known_brightness: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))  # of training images
    scales: dict[str, PartScale] = field(default_factory=dict)
    rank_by: str = "combined"
    pictures: list[tuple[int, bytes]] = field(default_factory=list)  # of training; not stored

    def on(self, name: str) -> Self:
        """The same model on a device, as for tables; brightness and PNG codes stay the processor's."""
        moved = super().on(name)
        lecture = None if self.lecture is None else copy.deepcopy(self.lecture).to(moved.device)
        return replace(moved, lecture=lecture)

    def ranked_by(self, name: str) -> ImageModel:
        """The same model that ranks by another score: "combined", or "elbo" for the pure bound."""
        if name not in RANKINGS:
            raise InputError(
                f'images are not ranked by "{one_line(name)}"', fix=f"Say {' or '.join(RANKINGS)}"
            )
        if name == self.rank_by:
            return self
        calibration = self.alone.get(name, Calibration(typical=self.calibration.typical))
        return replace(self, rank_by=name, calibration=calibration)

    @property
    def batch_rows(self) -> int:
        """Images of a micro-batch, all of whose draws are decoded at once: fixed for a model."""
        outputs = self.encoding.shape.pixels * self.vae.groups[0].outputs * self.vae.architecture.members
        draws = self.noise.shape[0] * self.noise.shape[1]
        most, elements = BATCHES[self.device.type]
        fits = elements // (draws * outputs)
        return max(8, min(most, 1 << max(0, fits.bit_length() - 1)))

    @torch.no_grad()
    @devices.exact()
    def evaluate(self, encoded: Encoded, *, reasons: bool = True) -> Contributions:
        """Bounds, parts and each region's share of the bound."""
        n = len(encoded.values)
        nats, kl = np.zeros((n, len(self.encoding.regions))), np.zeros(n)
        blocks, lecture = np.zeros((self.noise.shape[0], n)), np.zeros((self.noise.shape[0], n))
        region = torch.from_numpy(self.encoding.region)
        for part, values in self._batches(encoded):
            here = part.stop - part.start
            terms, divergence = _terms(self.vae, values, self.noise.flatten(0, 1))
            by_region = _sums_of_regions(terms.mean((0, 1), dtype=torch.float64), region, nats.shape[1])
            by_block = terms.sum(-1, dtype=torch.float64).mean(0).unflatten(0, self.noise.shape[:2]).mean(1)
            nats[part], kl[part] = by_region[:here].cpu().numpy(), divergence[:here].cpu().numpy()
            blocks[:, part] = by_block[:, :here].cpu().numpy()
            lecture[:, part] = self._lecture_elbo(values, by_block - divergence)[:, :here].cpu().numpy()
        contributions = self._collect(encoded, nats.sum(1), nats, kl, blocks)
        contributions.scores = self._combined(contributions.scores, encoded, lecture)
        return contributions

    def _batches(self, encoded: Encoded) -> Iterator[tuple[slice, Tensor]]:
        """Micro-batches, the last one filled up with black images to the same number."""
        rows, n = self.batch_rows, len(encoded.values)
        for first in range(0, n, rows):
            part = slice(first, min(first + rows, n))
            values = torch.zeros(rows, encoded.values.shape[1])
            values[: part.stop - first] = torch.from_numpy(encoded.values[part])
            yield part, values.to(self.device)

    def _refuse(self, encoded: Encoded) -> Encoded:
        """A pixel lies in every likelihood's support."""
        return encoded

    def _lecture_elbo(self, values: Tensor, own: Tensor) -> Tensor:
        """The ELBO of the VAE on Bernoulli terms: (n, m) -> (blocks, n), in nats.

        By whole pairs of draws; by the first draw of each block in models from before draws came in pairs.
        """
        if self.lecture is None:
            return own
        paired = self.noise.shape[1] > 1 and torch.equal(self.noise[:, 0], -self.noise[:, 1])
        noise = self.noise if paired else self.noise[:, :1]
        terms, divergence = _terms(self.lecture, values, noise.flatten(0, 1))
        by_draw = terms.sum(-1, dtype=torch.float64).mean(0)
        return by_draw.unflatten(0, noise.shape[:2]).mean(1) - divergence

    def _combined(self, scores: Scores, encoded: Encoded, lecture: np.ndarray) -> ImageScores:
        """The parts of each image, and the ranking's score from them."""
        images = self.encoding.levels_of(encoded.values)
        bits = png_bits(images)
        best = self._best_terms()[images.reshape(len(images), -1)].sum(1)
        levels = self._distance(brightness(images))

        def parts_of(elbo: np.ndarray, lecture: np.ndarray) -> dict[str, np.ndarray]:
            complexity = -elbo - bits * np.log(2)
            return {"elbo": -elbo, "excess": best - lecture, "complexity": complexity, "levels": levels}

        parts = parts_of(scores.elbo, lecture.mean(0))
        combined, part = self._largest(parts)
        alone = [
            self._largest(parts_of(scores.elbo - other, own))[0] - combined
            for other, own in zip(scores.by_block.T, lecture, strict=True)
        ]
        values: dict[str, Any] = vars(scores) | {
            "anomaly_score": combined,
            "p_value": self.calibration.p_values(combined),
            "by_block": np.stack(alone, 1).astype(np.float32),
        }
        own: dict[str, Any] = {"elbo_excess": -parts["excess"], "complexity_bits": bits, "parts": parts}
        return ImageScores(**values, **own, part=part)

    def _best_terms(self) -> np.ndarray:
        """Of each grey level x the Bernoulli's term at the best parameter, x itself: (levels,), in nats."""
        shape = self.encoding.shape
        x = (np.arange(shape.levels) / np.float32(shape.levels - 1)).astype(np.float64)
        return np.asarray(xlogy(x, x) + xlog1py(1 - x, -x))

    def _largest(self, parts: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The score that ranks, and which part it is: of the scaled parts the largest."""
        if self.rank_by == "elbo" or not self.scales:
            return parts["elbo"], np.full(len(parts["elbo"]), "elbo", object)
        z = np.stack([scale.z(parts[name]) for name, scale in self.scales.items()])
        return z.max(0), np.array(list(self.scales), object)[z.argmax(0)]

    def _distance(self, described: np.ndarray) -> np.ndarray:
        """Mean distance to the five training images that are nearest in brightness: (n, f) -> (n,)."""
        if not len(self.known_brightness):
            return np.zeros(len(described))
        from scipy.spatial.distance import cdist  # half a second to import: tables do without

        distances = cdist(described, self.known_brightness)
        nearest = min(NEIGHBOURS, distances.shape[1])
        distances.partition(nearest - 1, axis=1)
        return np.sort(distances[:, :nearest], axis=1).mean(1)

    @torch.no_grad()
    @devices.exact()
    def pixel_terms(self, encoded: Encoded) -> tuple[np.ndarray, np.ndarray]:
        """Each pixel's share of the bound (n, m) and the KL (n,): the elbo is their sum less the KL."""
        terms, kl = np.zeros(encoded.values.shape), np.zeros(len(encoded.values))
        for part, values in self._batches(encoded):
            here = part.stop - part.start
            own, divergence = _terms(self.vae, values, self.noise.flatten(0, 1))
            terms[part] = own.mean((0, 1), dtype=torch.float64)[:here].cpu().numpy()
            kl[part] = divergence[:here].cpu().numpy()
        return terms, kl

    def arrays(self) -> dict[str, np.ndarray]:
        """What storage writes beside a table model's arrays."""
        lecture = self.lecture.state_dict() if self.lecture is not None else {}
        own = {f"lecture.{name}": tensor.cpu().numpy() for name, tensor in lecture.items()}
        return own | {"known_brightness": self.known_brightness}

    def document(self) -> dict[str, Any]:
        """What storage writes into model.json beside a table model's entries."""
        return {
            "lecture": self.lecture.architecture.to_json() if self.lecture is not None else None,
            "scales": {name: asdict(scale) for name, scale in self.scales.items()},
        }

    @classmethod
    def restore(
        cls, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray], **common: Any
    ) -> ImageModel:
        """The way back from `arrays` and `document`; `common` is what all models have."""
        lecture = None
        if document["lecture"] is not None:
            lecture = VAE(Architecture.from_json(document["lecture"]))
            own = {k.removeprefix("lecture."): v for k, v in arrays.items() if k.startswith("lecture.")}
            lecture.load_state_dict({name: torch.from_numpy(array) for name, array in own.items()})
            lecture.eval()
        # In the order of PARTS: where two parts are equal the first one is named.
        scales = {name: PartScale(**document["scales"][name]) for name in PARTS if name in document["scales"]}
        return cls(**common, lecture=lecture, known_brightness=arrays["known_brightness"], scales=scales)


def _terms(vae: VAE, values: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Terms (e, s, n, m) in float32 and the KL (n,) in float64, both in nats.

    Float32: a term's rounding is 1e-7 of it, and the sums are taken in float64.
    """
    context = values.new_zeros((len(values), 0))
    mean, log_variance = vae.encode(vae.inputs(values, values), context)
    e, n, p = mean.shape
    z = reparameterize(mean.unsqueeze(1), log_variance.unsqueeze(1), noise.unsqueeze(1))
    parameters = vae.decode(z.reshape(e, -1, p), context).unflatten(1, (len(noise), n))
    group = vae.groups[0]
    scale = vae.scale.float()
    chosen = vae.parameters_of(group, parameters)
    terms = LIKELIHOODS[group.likelihood.name].log_prob_unmasked(values, chosen, scale)
    return terms, kl_standard_normal(mean, log_variance).mean(0)


def _sums_of_regions(terms: Tensor, region: Tensor, regions: int) -> Tensor:
    """Pixels' terms (n, m) added up by their regions (m,): (n, regions); of the same bits each time."""
    if terms.is_cuda:  # there index_add_ adds in the order of the moment
        member = F.one_hot(region, regions).to(terms)
        return terms @ member
    return terms.new_zeros((len(terms), regions)).index_add_(1, region, terms)


def per_image(values: np.ndarray, encoding: ImageEncoding) -> np.ndarray:
    """Values (n, m) as (n, height, width, channels)."""
    s = encoding.shape
    return values.reshape(-1, s.height, s.width, s.channels)
