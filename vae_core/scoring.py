"""Bounds and exact contributions for batches of records: a fitted model, and what it says of a table."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vae_core import devices, sums
from vae_core.bounds import importance_bound, kl_standard_normal, log_weights
from vae_core.calibration import Calibration
from vae_core.encoding import Encoded, TableEncoding
from vae_core.likelihoods import mixed_class_moments
from vae_core.members import Companion, scores_of
from vae_core.model import VAE
from vae_core.noise import noise_of
from vae_core.records import are_among, identities
from vae_core.scores import Contributions, Scores
from vae_core.tilt import Tilt

__all__ = ["Contributions", "FittedModel", "Scores"]

FEW_ROWS = 256  # of a micro-batch where records are few: expected values and repairs, for reasons
FARTHEST = 1e300  # a value scaled to [0, 1] may overflow: its distance stays finite
AT_ONCE = 16_384  # records: encoded, scored and let go, so that memory and caches hold no whole unit


class Batch(NamedTuple):
    """A micro-batch: so many records, and draws at a time until so many codes are decoded at once."""

    rows: int
    codes: int
    elements: int  # of the decoder's output at most, for wide tables


# A processor's numbers then stay in its cache; a GPU is kept busy, several workers fit into its memory.
BATCHES = {"cpu": Batch(1024, 4096, 2_000_000), "cuda": Batch(AT_ONCE, 8 * AT_ONCE, 16_000_000)}
# Nats for a cell outside [0, 1] under a likelihood that lives there: a finite stand-in for -infinity.
REFUSED = -1e9


@dataclass
class FittedModel:
    """A fitted model: encoding, VAE, companions, calibration, and the noise that belongs to it."""

    encoding: TableEncoding
    vae: VAE
    noise: Tensor  # (blocks, draws, p)
    weights: dict[str, float] = field(default_factory=lambda: {"vae": 1.0})
    companions: dict[str, Companion] = field(default_factory=dict)
    tilts: dict[str, Tilt] = field(default_factory=dict)  # of members that are heard beside others
    calibration: Calibration = field(default_factory=Calibration)
    alone: dict[str, Calibration] = field(default_factory=dict)  # each member's own, for when it scores alone
    settings: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    trained_on: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))  # sorted record identities

    batch: Batch = BATCHES["cpu"]

    @property
    def device(self) -> torch.device:
        """Where it computes: the processor, unless `on` has moved it."""
        return self.noise.device

    @devices.exact()
    def on(self, name: str) -> Self:
        """The same model on "cpu", "cuda" or, with "auto", on a GPU where there is one.

        A GPU's scores repeat to the bit there, and are a processor's but for rounding (docs/speed.md). Raises
        InputError where there is no such device.
        """
        device = devices.device(name)
        vae = copy.deepcopy(self.vae).to(device)
        companions = {name: companion.on(device) for name, companion in self.companions.items()}
        noise, batch = self.noise.to(device), BATCHES[device.type]
        return replace(self, vae=vae, noise=noise, companions=companions, batch=batch)

    @property
    def batch_rows(self) -> int:
        """Rows of a micro-batch: fixed for a model, so that every record is computed in the same shapes."""
        a = self.vae.architecture
        outputs = a.members * sum(len(g.features) * g.outputs for g in self.vae.groups)
        return max(8, min(self.batch.rows, 1 << max(0, (self.batch.elements // outputs).bit_length() - 1)))

    @property
    def _draws_at_once(self) -> int:
        a = self.vae.architecture
        outputs = a.members * sum(len(g.features) * g.outputs for g in self.vae.groups)
        return max(1, min(self.batch.codes, self.batch.elements // outputs) // self.batch_rows)

    def _chunks(self) -> list[tuple[int, Tensor]]:
        """The noise in pieces that are decoded at once: (block, noise (draws, p)), in order."""
        pieces = [block.split(self._draws_at_once) for block in self.noise]
        return [(b, piece) for b, block in enumerate(pieces) for piece in block]

    def with_draws(self, draws: int) -> FittedModel:
        """The same model scored with another number of draws: in 4 blocks, 2 or 1, each of whole pairs."""
        if draws < 1:
            raise ValueError(f"draws must be at least 1; got {draws}")
        seed = int(self.settings.get("random_state", 0))
        noise = noise_of(draws, self.vae.architecture.latent, seed=seed)
        return replace(self, noise=noise.to(self.device))

    def of_few(self) -> FittedModel:
        """The same model for few records: less is filled up. The last bits of its scores may be others."""
        return replace(self, batch=self.batch._replace(rows=FEW_ROWS))

    def with_members(self, names: list[str]) -> FittedModel:
        """The same model with some of its members only, their weights rescaled to sum to 1."""
        kept = {name: weight for name, weight in self.weights.items() if name in names}
        if not kept or set(names) - set(self.weights):
            raise ValueError(f"members are {', '.join(self.weights)}; asked for {', '.join(names)}")
        total = sum(kept.values())
        weights = {name: weight / total for name, weight in kept.items()}
        if weights == self.weights:
            return self
        own = Calibration(typical=self.calibration.typical)  # two of several members: scores, but no p-values
        calibration = self.alone.get(next(iter(kept)), own) if len(kept) == 1 else own
        calibration = replace(calibration, ranges=self.calibration.ranges)
        alone = {name: known for name, known in self.alone.items() if name in kept}
        return replace(self, weights=weights, calibration=calibration, alone=alone)

    @property
    def tilted(self) -> bool:
        """Whether members' bounds are lowered: not where one is heard alone."""
        return bool(self.tilts) and len(self.weights) > 1

    def untilted(self) -> FittedModel:
        """The same model with the weighted mean of its members' bounds as they are: a tighter bound.

        Without p-values where it was tilted: the calibration is of tilted scores.
        """
        own = replace(self.calibration, scores=np.empty(0)) if self.tilted else self.calibration
        return replace(self, tilts={}, calibration=own)

    def score(self, table: pa.Table | pa.RecordBatch, *, draws: int | None = None) -> Scores:
        """Bounds of each record of a table with the encoding's columns: figures of that record alone.

        Raises InputError when a column is missing.
        """
        model = self if draws is None else self.with_draws(draws)
        parts = [
            model._score(table.slice(first, AT_ONCE)) for first in range(0, max(1, table.num_rows), AT_ONCE)
        ]
        return type(parts[0]).joined(parts)

    def _score(self, table: pa.Table | pa.RecordBatch) -> Scores:
        scores = self.evaluate(self.encoding.encode(table), reasons=False).scores
        if len(self.trained_on) and len(names := identities(table, self.encoding.columns)):
            scores.p_value[are_among(names, self.trained_on)] = np.nan
        return scores

    @torch.no_grad()
    @devices.exact()
    def evaluate(self, encoded: Encoded, *, reasons: bool = True) -> Contributions:
        """Bounds of encoded records and their contributions; without `reasons` no contributions.

        The bounds have the same bits either way: reasons cost the companions' work twice.
        """
        n = len(encoded.values)
        encoded = self._refuse(encoded)
        reconstruction, kl = np.zeros(n), np.zeros(n)
        nats = np.zeros((n if reasons else 0, len(self.encoding.described)))
        blocks = np.zeros((self.noise.shape[0], n))
        rows, chunks = self.batch_rows, self._chunks()
        for first in range(0, n, rows):
            part = slice(first, min(first + rows, n))
            here = part.stop - part.start
            term, divergence = self._micro_batch(self._padded(encoded, part, rows), chunks)
            own = self._by_column(term.mean(0)[:here].cpu().numpy()) + encoded.fixed[part]
            reconstruction[part] = sums.of_records(own)
            kl[part] = divergence.mean(0)[:here].cpu().numpy()
            if len(blocks) > 1:
                blocks[:, part] = term.sum(-1)[:, :here].cpu().numpy()
            if reasons:
                nats[part] = own
        return self._collect(encoded, reconstruction, nats, kl, blocks)

    @torch.no_grad()
    @devices.exact()
    def moments(self, encoded: Encoded, *, wanted: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of each feature under P(x|z), z from Q, in model values: (n, features) each.

        `wanted` (features,) bool: others may be left 0, where no feature of their likelihood is wanted.
        """
        encoded = self._refuse(encoded)
        mean, variance = np.zeros(encoded.values.shape), np.zeros(encoded.values.shape)
        few = self.of_few()
        rows, pieces = few.batch_rows, self.noise.flatten(0, 1).split(few._draws_at_once)
        for first in range(0, len(mean), rows):
            part = slice(first, min(first + rows, len(mean)))
            values, mask, context = self._padded(encoded, part, rows)
            latent, log_variance = self.vae.encode(self.vae.inputs(values, mask), context)
            parameters = [self.vae.decode_draws(latent, log_variance, context, noise) for noise in pieces]
            average, spread = self._moments(torch.cat(parameters, 1), wanted)
            mean[part], variance[part] = average[: part.stop - first], spread[: part.stop - first]
        return mean, variance

    @torch.no_grad()
    @devices.exact()
    def codes(self, encoded: Encoded) -> np.ndarray:
        """The mean of Q(z|x), of each member of the ensemble: (n, members, latents)."""
        encoded = self._refuse(encoded)
        a, rows = self.vae.architecture, self.batch_rows
        found = np.zeros((len(encoded.values), a.members, a.latent))
        for first in range(0, len(found), rows):
            part = slice(first, min(first + rows, len(found)))
            values, mask, context = self._padded(encoded, part, rows)
            mean, _ = self.vae.encode(self.vae.inputs(values, mask), context)
            found[part] = mean.transpose(0, 1)[: part.stop - first].cpu().numpy()
        return found

    def _micro_batch(
        self, batch: tuple[Tensor, ...], chunks: list[tuple[int, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Each block's mean terms (blocks, n, m) and the KL (e, n) of one micro-batch."""
        values, mask, context = batch
        mean, log_variance = self.vae.encode(self.vae.inputs(values, mask), context)
        cells = self.vae.scored_cells(values, mask)
        total = torch.zeros((self.noise.shape[0], *values.shape), dtype=torch.float64, device=values.device)
        for block, noise in chunks:
            parameters = self.vae.decode_draws(mean, log_variance, context, noise)
            total[block] += self.vae.summed_terms(cells, parameters)
        total /= mean.shape[0] * self.noise.shape[1]
        if not self.vae.in_order:
            total = total[..., self.vae.index]
        return total, kl_standard_normal(mean, log_variance)

    def _refuse(self, encoded: Encoded) -> Encoded:
        """Take cells outside their likelihood's support out of the mask; all members charge a penalty."""
        bounded = [group for group in self.vae.groups if group.likelihood.support[1] < np.inf]
        if not bounded:
            return encoded
        penalty = np.zeros(encoded.values.shape)
        for group in bounded:
            low, high = group.likelihood.support
            x = encoded.values[:, group.features]
            excess = np.maximum(low - x, x - high).clip(max=FARTHEST)
            outside = (excess > 0) & encoded.mask[:, group.features]
            penalty[:, group.features] = np.where(outside, REFUSED * (1 + excess / (1 + np.abs(excess))), 0.0)
        refused = penalty < 0
        if not refused.any():
            return encoded
        values, mask = np.where(refused, 0, encoded.values), encoded.mask & ~refused
        return replace(encoded, values=values, mask=mask, fixed=encoded.fixed + self._by_column(penalty))

    def _padded(self, encoded: Encoded, part: slice, rows: int) -> tuple[Tensor, ...]:
        """One micro-batch, filled up with empty records to the model's fixed number of rows."""
        here = part.stop - part.start
        if here == rows:
            whole = encoded.values[part], encoded.mask[part], encoded.context[part]
            return tuple(torch.from_numpy(np.ascontiguousarray(array)).to(self.device) for array in whole)
        values = torch.zeros(rows, encoded.values.shape[1], dtype=torch.float64)
        mask = torch.zeros(values.shape, dtype=torch.bool)
        context = torch.zeros(rows, encoded.context.shape[1])
        values[:here] = torch.from_numpy(encoded.values[part])
        mask[:here] = torch.from_numpy(encoded.mask[part])
        context[:here] = torch.from_numpy(encoded.context[part])
        return tuple(tensor.to(self.device) for tensor in (values, mask, context))

    def _moments(self, parameters: Tensor, wanted: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of each feature, over members and draws: (e, s, n, outputs) -> (n, m).

        For categories: the most probable class, all draws together, and one minus its probability.
        """
        means, variances = [], []
        for group in self.vae.groups:
            if wanted is not None and not wanted[group.features].any():
                shape = parameters.shape[2], len(group.features)
                nothing = parameters.new_zeros(shape, dtype=torch.float64)
                means.append(nothing)
                variances.append(nothing)
                continue
            chosen = self.vae.parameters_of(group, parameters)
            scale = self.vae.scale[group.features].to(chosen.dtype)
            if group.likelihood.name == "categorical":
                average, spread = mixed_class_moments(chosen, scale)
            else:
                mean, variance = group.likelihood.moments(chosen, scale)
                average = mean.mean((0, 1), dtype=torch.float64)
                apart = (mean - average.to(mean.dtype)).square().mean((0, 1), dtype=torch.float64)
                spread = variance.mean((0, 1), dtype=torch.float64) + apart
            means.append(average)
            variances.append(spread)
        order = self.vae.index
        both = (torch.cat(parts, -1)[:, order].double().cpu().numpy() for parts in (means, variances))
        return next(both), next(both)

    def _by_column(self, terms: np.ndarray) -> np.ndarray:
        """Terms of features (n, m) -> of the table's columns (n, columns)."""
        if [f.column for f in self.encoding.features] == list(range(len(self.encoding.described))):
            return terms
        result = np.zeros((len(terms), len(self.encoding.described)))
        for j, feature in enumerate(self.encoding.features):
            result[:, feature.column] += terms[:, j]
        return result

    def _collect(
        self,
        encoded: Encoded,
        reconstruction: np.ndarray,
        nats: np.ndarray,
        kl: np.ndarray,
        blocks: np.ndarray,
    ) -> Contributions:
        elbo = reconstruction - kl
        plain, lowered, shares, divergence = (np.zeros(a.shape) for a in (kl, kl, nats, kl))
        for name, weight, own, terms, own_kl in self._members(encoded, elbo, nats, kl):
            plain += weight * own
            lowered += weight * self._log_factor(name, own)
            if len(nats):
                shares += weight * terms
                divergence += weight * own_kl
        bound = plain + lowered
        error = blocks.std(0, ddof=1) / np.sqrt(len(blocks)) if len(blocks) > 1 else np.full(len(kl), np.nan)
        scores = Scores(
            anomaly_score=-bound,
            bound=bound,
            elbo=elbo,
            reconstruction=reconstruction,
            kl=kl,
            elbo_se=error,
            p_value=self.calibration.p_values(-bound),
            n_missing=encoded.n_missing,
            n_out_of_range=encoded.n_out_of_range,
            n_unseen=encoded.n_unseen,
            by_block=self._by_block(elbo, blocks),
        )
        return Contributions(scores, shares, -divergence, lowered)

    def _members(
        self, encoded: Encoded, elbo: np.ndarray, nats: np.ndarray, kl: np.ndarray
    ) -> Iterator[tuple[str, float, np.ndarray, np.ndarray, np.ndarray]]:
        """Each member's name, weight, bound, contributions and KL; these only where `nats` has records."""
        if "vae" in self.weights:
            yield "vae", self.weights["vae"], elbo, nats, kl
        fixed = sums.of_records(encoded.fixed)
        # In the order that storage writes: a loaded model adds up to the same bits.
        heard = {name: self.companions[name] for name in sorted(self.companions) if name in self.weights}
        bounds = scores_of(heard, encoded.values, encoded.mask)
        for name, companion in heard.items():
            terms, own_kl = nats, kl
            if len(nats):
                terms, own_kl = companion.parts(encoded.values, encoded.mask, quick=True)
                terms = self._by_column(terms) + encoded.fixed
            yield name, self.weights[name], bounds[name] + fixed, terms, own_kl

    def _log_factor(self, member: str, bound: np.ndarray) -> np.ndarray:
        """What the member's tilt lowers its bounds by."""
        return self.tilts[member].log_factor(bound) if self.tilted else np.zeros(bound.shape)

    def _by_block(self, elbo: np.ndarray, blocks: np.ndarray) -> np.ndarray:
        """The anomaly score by each block of draws alone, less that by all: (n, blocks)."""
        apart = blocks.mean(0) - blocks
        apart = apart + self._log_factor("vae", elbo) - self._log_factor("vae", elbo - apart)
        return (self.weights.get("vae", 0.0) * apart).T.astype(np.float32)

    @torch.no_grad()
    @devices.exact()
    def importance_bound(self, table: pa.Table, *, draws: int = 64, random_state: int = 0) -> np.ndarray:
        """The importance-weighted bound of the VAE, the mean over its ensemble, in nats: (n,).

        In expectation over its own noise between `elbo` and log P(x); low = anomalous. Burda et al. (2016).
        """
        encoded = self._refuse(self.encoding.encode(table))
        generator = torch.Generator().manual_seed(random_state)
        rows, result = self.batch_rows, np.zeros(len(encoded.values))
        noise = torch.randn((draws, 1, self.vae.architecture.latent), generator=generator).to(self.device)
        for first in range(0, len(result), rows):
            part = slice(first, min(first + rows, len(result)))
            values, mask, context = self._padded(encoded, part, rows)
            mean, log_variance = self.vae.encode(self.vae.inputs(values, mask), context)
            terms = [
                self.vae.log_prob(
                    values, self.vae.decode_draws(mean, log_variance, context, some[:, 0]), mask
                ).sum(-1)
                for some in noise.split(self._draws_at_once)
            ]
            bounds = [
                importance_bound(log_weights(own, mean[e], log_variance[e], noise))
                for e, own in enumerate(torch.cat(terms, 1))
            ]
            result[part] = torch.stack(bounds).mean(0)[: part.stop - part.start].cpu().numpy()
        return result + sums.of_records(encoded.fixed)
