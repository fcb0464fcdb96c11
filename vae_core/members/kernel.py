"""An adaptive kernel density over training records: exact, and at home wherever training has been."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from vae_core import sums
from vae_core.encoding import Feature
from vae_core.members.layout import Layout, log_theta
from vae_core.members.own import Places, leave_out
from vae_core.members.powers import LOG_2, log_sum, padded, together
from vae_core.members.search import highest
from vae_core.members.widths import NARROWEST, NEIGHBOUR, relative_widths, scale_of

__all__ = ["KernelDensity"]

MOST_EXEMPLARS = 2000
CROWD = 500  # of them that a crowd hears: choosing among all costs four times as much and finds no more
WIDTHS = np.geomspace(0.02, 2.0, 16)
MIXING = (0.02, 0.1, 0.3, 0.7)  # how much a discrete kernel takes from the column's shares
TRIMMED = 0.02  # the least likely records do not choose the width: a lone one would widen it for all
FAR = 1e3  # standardised units from where distances grow logarithmically
TILES = {"cpu": 256, "cuda": 4096}  # rows computed at once, always: a record's bits hang on no neighbour's
SLAB = 4  # tiles laid out together
LOG_2PI = math.log(2 * math.pi)


class KernelDensity:
    """log P(x) = log sum_i w_i prod_j k_ij(x_j), one kernel for each of at most 2,000 training records i.

    Real columns: Gaussian kernels of width h r_i c_j: c_j the column's scale, r_i the square root of the
    distance to the 10th neighbour over its geometric mean (Abramson 1982), h chosen by leave-one-out
    likelihood. Whole numbers: the same on their lattice, normalised by the theta function. Booleans and
    categories: (1 - l) on the exemplar's own class + l times the column's smoothed shares (after Aitchison &
    Aitken 1976), l by the same likelihood. Beyond 1,000 spreads a value is compressed logarithmically, with
    its Jacobian, so that the density stays normalised and finite. In nats, in the VAE's base measure. Low =
    anomalous.

    It holds training records. A record that is one of them does not hear its own kernel, so that none
    vouches for itself: a sum without a term is a lower bound, and what the record would get were it new.
    """

    def __init__(
        self,
        exemplars: np.ndarray,
        observed: np.ndarray,
        widths: np.ndarray,
        scales: np.ndarray,
        shares: np.ndarray,
        features: Sequence[Feature],
        *,
        leaves_own: bool = True,
    ) -> None:
        self.exemplars = exemplars  # (N, m) float64: model values of the exemplars
        self.observed = observed  # (N, m) bool
        self.widths = widths  # (N,): h r_i, in units of the columns' scales
        self.scales = scales  # (m,): c_j of numeric features; the mixing l in place of a discrete one's
        self.shares = shares  # (sum of classes,): smoothed shares of the discrete features' classes
        self.features = list(features)
        self.leaves_own = leaves_own  # whether a record's own kernel is left out: False in older models
        self.layout = Layout.of(features)
        self._known: Places | None = None  # made when it is needed
        self.tile = TILES["cpu"]
        self._tables()

    @classmethod
    def supports(cls, features: Sequence[Feature]) -> bool:
        """Whether every feature has a kernel of its kind."""
        known = ("gaussian", "whole", "bernoulli", "categorical")
        return bool(features) and all(f.likelihood in known for f in features)

    @classmethod
    def fit(
        cls, values: np.ndarray, mask: np.ndarray, features: Sequence[Feature], *, random_state: int = 0
    ) -> KernelDensity:
        """Learn from encoded training records: values and mask (n, m) as TableEncoding.encode gives them."""
        layout = Layout.of(features)
        chosen = np.sort(np.random.default_rng(random_state).permutation(len(values))[:MOST_EXEMPLARS])
        chosen = np.random.default_rng(CROWD).permutation(chosen)  # the first few are a sample of all
        exemplars, observed = values[chosen].copy(), mask[chosen]
        exemplars[:, layout.numeric] = compressed(exemplars[:, layout.numeric])[0]
        exemplars = exemplars.astype(np.float32).astype(np.float64)  # as storage keeps them
        scales, shares = np.ones(len(features)), [np.zeros(0)]
        for j in layout.numeric:
            scales[j] = scale_of(compressed(values[mask[:, j], j])[0])
        for j, size in zip(layout.discrete, layout.classes, strict=True):
            codes = values[mask[:, j], j].astype(np.int64).clip(0, size - 1)
            shares.append((np.bincount(codes, minlength=size) + 1.0) / (len(codes) + size))
        relative = relative_widths(exemplars, observed, scales, layout)
        terms: dict[float, Tensor] = {}  # of discrete features: they do not depend on the width

        def with_likelihood(width: float, mixing: float) -> tuple[float, KernelDensity]:
            scales[layout.discrete] = mixing
            widths = np.maximum(width * relative, NARROWEST)
            member = cls(exemplars, observed, widths, scales.copy(), np.concatenate(shares), features)
            if sum(layout.classes) > 2 * len(layout.numeric) and mixing not in terms:
                terms.clear()  # the search goes on from one mixing to the next
                terms[mixing] = member._discrete_terms()
            return member._leave_one_out(terms.get(mixing)), member

        widths = WIDTHS if layout.numeric and len(exemplars) > NEIGHBOUR else (1.0,)
        return highest(list(widths), MIXING if layout.discrete else MIXING[:1], with_likelihood)

    def score(self, values: np.ndarray, mask: np.ndarray, *, quick: bool = False) -> np.ndarray:
        """log P(x) of each record in nats, low = anomalous: (n, m) -> (n,); `quick` to 1e-7 nats or so."""
        return self.scores([self], values, mask, quick=quick)[0]

    def scores(
        self,
        heard: Sequence[KernelDensity],
        values: np.ndarray,
        mask: np.ndarray,
        *,
        quick: bool = False,
        own: bool = False,
    ) -> list[np.ndarray]:
        """The scores of several whose exemplars are this one's first ones, from one matrix product a tile.

        With `own` records hear their own kernels too: log P(x) as it is.
        """
        totals = [np.zeros(len(values)) for _ in heard]
        order = sorted(zip(totals, heard, strict=True), key=lambda pair: pair[1] is self)
        joint = self.long.new_empty((self.tile, self.long.shape[1]))  # one for all tiles
        places = None if own else self._places(values, mask)
        for rows, count, design, table in self._tiles(values, mask):
            torch.mm(design, table, out=joint)
            for total, member in order:  # the last one uses the joint up
                if member is self and places is not None:
                    leave_out(joint, places[rows])
                total[rows] = member._bits(joint, quick).cpu().numpy()[:count]
        for total, member in order:
            total -= member._log_count
            total *= LOG_2
        jacobian = self._jacobian(values, mask)
        return totals if jacobian is None else [total + sums.of_records(jacobian) for total in totals]

    def begins_with(self, other: KernelDensity) -> bool:
        """Whether the other's exemplars are this one's first ones, with the same kernels."""
        first = slice(len(other.exemplars))
        return (
            np.array_equal(self.exemplars[first], other.exemplars)
            and np.array_equal(self.observed[first], other.observed)
            and np.array_equal(self.widths[first], other.widths)
            and np.array_equal(self.scales, other.scales)
            and np.array_equal(self.shares, other.shares)
        )

    def parts(
        self, values: np.ndarray, mask: np.ndarray, *, quick: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Terms (n, m) and KL (n,) in nats, score = terms.sum(1) - kl, exact.

        With responsibilities r: log P(x) = sum_i r_i sum_j log k_ij(x_j) - KL(r || w), the ELBO of the
        exemplar's number at its exact posterior.
        """
        terms, kl = np.zeros(values.shape), np.zeros(len(values))
        places = self._places(values, mask)
        for rows, count, design, table in self._tiles(values, mask):
            joint = design @ table
            if places is not None:
                leave_out(joint, places[rows])
            total = self._sum(joint.clone(), quick)
            own = self._by_feature(design, self._responsibilities(joint, total))[:count]
            terms[rows] = own
            kl[rows] = sums.of_records(own) - total.cpu().numpy()[:count]
        jacobian = self._jacobian(values, mask)
        return terms if jacobian is None else terms + jacobian, kl

    def on(self, device: torch.device) -> Self:
        """The same with its tables on a device; what finds a record among the exemplars stays here."""
        moved = copy.copy(self)
        moved.tile = TILES[device.type]
        moved.long, moved.short, moved.turned = (t.to(device) for t in (self.long, self.short, self.turned))
        return moved

    def arrays(self) -> dict[str, np.ndarray]:
        """What storage writes: exemplars in single precision, as they are used."""
        return {
            "exemplars": self.exemplars.astype(np.float32),
            "observed": self.observed,
            "widths": self.widths,
            "scales": self.scales,
            "shares": self.shares,
            "leaves_own": np.array([self.leaves_own]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], features: Sequence[Feature]) -> Self:
        known, leaves_own = arrays["exemplars"].astype(np.float64), arrays.get("leaves_own", np.zeros(1))
        tables = known, arrays["observed"], arrays["widths"], arrays["scales"], arrays["shares"]
        return cls(*tables, features, leaves_own=bool(leaves_own[0]))

    def _places(self, values: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
        """Which exemplar a record is, or -1: (n,). None where none is one, or own kernels are heard."""
        if not self.leaves_own or len(self.exemplars) < 2:
            return None
        self._known = self._known or Places(self.exemplars, self.observed)
        numeric, telling = self.layout.numeric, self._known.telling
        column = values[:, telling]
        column = compressed(column)[0] if telling in numeric else column
        some = self._known.likely(column, mask[:, telling])
        if not len(some):
            return None
        x = values[some]
        x[:, numeric] = compressed(x[:, numeric])[0]
        found = np.full(len(values), -1)
        found[some] = self._known.find(x, mask[some])
        return found

    # A record's log kernels with all exemplars are one matrix product, design (tile, q) times table (q, N),
    # in bits.
    # With z = x / c, precision p_i = 1 / (h r_i)^2 and z_i the exemplar's, a numeric column's log kernel is
    #   -p_i z^2 / 2 + z p_i z_i - (p_i z_i^2 / 2 + log (h r_i c) + log sqrt(2 pi) + log theta - log step),
    # a discrete one's picks a row by its class. Where no numeric cell is missing, on either side, z^2 sums
    # over columns into one entry of the design, and the last bracket into one constant.

    def _tables(self) -> None:
        layout, count = self.layout, len(self.exemplars)
        numeric = layout.numeric
        here = self.observed[:, numeric]
        z = np.where(here, self.exemplars[:, numeric] / self.scales[numeric], 0.0)
        # Where an exemplar's cell is missing its kernel is the column's standard normal.
        width = np.where(here, self.widths[:, None], 1.0 / self.scales[numeric])
        precision = width**-2.0
        log_width = np.log(width * self.scales[numeric])
        theta = log_theta(width, np.where(here, 0.0, self._offsets()), layout, self.scales)
        constant = -0.5 * precision * z**2 - log_width - 0.5 * LOG_2PI - theta
        linear = precision * z
        blocks, start = [np.zeros((0, count))], 0
        for j, size in zip(layout.discrete, layout.classes, strict=True):
            shares, mixing = self.shares[start : start + size], self.scales[j]
            own = (self.exemplars[:, [j]] == np.arange(size)).astype(float)  # (N, size)
            kernel = np.where(self.observed[:, [j]], (1 - mixing) * own + mixing * shares, shares)
            blocks.append(np.log(kernel).T)
            start += size
        discrete = np.concatenate(blocks)
        self.complete = bool(here.all())  # then rows without a missing numeric cell take the short table
        whole = np.concatenate([-0.5 * precision.T, linear.T, constant.T, discrete])
        self.long = padded(np.concatenate([whole, np.zeros((1, count))]))
        self.turned = torch.zeros((self.long.shape[1], len(whole) + -len(whole) % 16), dtype=torch.float64)
        self.turned[:count, : len(whole)] = torch.from_numpy(whole.T)
        square = -0.5 * self.widths[None] ** -2.0
        self.short = padded(np.concatenate([square, linear.T, discrete, constant.sum(1)[None]]))

    def _sum(self, joint: Tensor, quick: bool = False) -> Tensor:
        """log sum_i w_i 2^joint_i in nats, of each row: (n, N) -> (n,); `joint` is used up."""
        return self._bits(joint, quick).sub_(self._log_count).mul_(LOG_2)

    def _bits(self, joint: Tensor, quick: bool) -> Tensor:
        """log2 sum_i 2^joint_i of each row: (n, N) -> (n,); `joint` is used up.

        `quick`: differences from the largest in single precision, to 1e-7 of the sum in a third of the time.
        """
        largest = joint.amax(1)
        differences = joint.sub_(largest.unsqueeze(1))
        return log_sum(differences.float() if quick else differences, largest)

    @property
    def _log_count(self) -> float:
        return math.log2(len(self.exemplars))  # in bits: each exemplar weighs as much

    def _responsibilities(self, joint: Tensor, total: Tensor) -> Tensor:
        """Of the exemplars for each row, from log kernels in bits and their sum in nats: (n, N)."""
        return torch.exp2(joint - (total.unsqueeze(1) / LOG_2 + self._log_count))

    def _offsets(self) -> np.ndarray:
        """How far the lattices of whole numbers lie from 0, the mean, where missing cells' kernels stand."""
        result = np.zeros(len(self.layout.numeric))
        for k, (j, step) in enumerate(zip(self.layout.numeric, self.layout.steps, strict=True)):
            cells = self.exemplars[self.observed[:, j], j]
            if step > 0 and len(cells):
                nearest = float(cells[np.abs(cells).argmin()])
                result[k] = nearest - step * round(nearest / step)
        return result

    def _tiles(self, values: np.ndarray, mask: np.ndarray):  # type: ignore[no-untyped-def]
        """Rows of a tile, how many, their design (tile, q) and the table (q, N) it multiplies."""
        short = self._short_rows(mask)
        for group, table in ((np.flatnonzero(short), self.short), (np.flatnonzero(~short), self.long)):
            for first in range(0, len(group), SLAB * self.tile):
                slab = group[first : first + SLAB * self.tile]
                here = together(slab)
                filled = self._design(values[here], mask[here], table is self.short)
                for start, design in enumerate(torch.from_numpy(filled).split(self.tile)):
                    rows = slab[start * self.tile : (start + 1) * self.tile]
                    yield together(rows), len(rows), design.to(table.device), table

    def _design(self, values: np.ndarray, mask: np.ndarray, short: bool) -> np.ndarray:
        """The rows' design, filled up to whole tiles with zeros: (n, m) -> (>= n, q)."""
        n, numeric = len(values), self.layout.numeric
        filled = np.zeros((n + -n % self.tile, len(self.short if short else self.long)))
        first = 1 if short else len(numeric)  # where the numeric features' own values stand
        x = filled[:n, first : first + len(numeric)]
        np.divide(compressed(values[:, numeric])[0], self.scales[numeric], out=x)
        place = first + len(numeric)
        if short:
            filled[:n, 0] = sums.of_records(np.square(x))
        else:
            seen = mask[:, numeric]
            x[~seen] = 0.0
            np.square(x, out=filled[:n, :first])
            filled[:n, place : place + len(numeric)] = seen
            place += len(numeric)
        filled[:n, place:-1] = self.layout.indicators(values, mask)
        filled[:n, -1] = 1.0
        return filled

    def _short_rows(self, mask: np.ndarray) -> np.ndarray:
        """Rows that miss no numeric cell, where no exemplar does."""
        if not self.complete or mask.all():
            return np.full(len(mask), self.complete)
        return np.asarray(mask[:, self.layout.numeric].all(1))

    def _by_feature(self, design: Tensor, responsibilities: Tensor) -> np.ndarray:
        """Expected log kernels of each feature: (tile, q) and (tile, N) -> (tile, m)."""
        layout, numeric = self.layout, len(self.layout.numeric)
        expected = (responsibilities @ self.turned).cpu().numpy()
        filled = design.cpu().numpy()
        short = len(self.short) != len(self.long) and filled.shape[1] == len(self.short)
        start = 1 if short else numeric
        x = filled[:, start : start + numeric]
        seen = np.ones_like(x) if short else filled[:, 2 * numeric : 3 * numeric]
        quadratic, linear, constant = (expected[:, k * numeric : (k + 1) * numeric] for k in range(3))
        result = np.zeros((len(filled), len(self.features)))
        result[:, layout.numeric] = quadratic * np.square(x) + linear * x + constant * seen
        place, source = start + numeric + (0 if short else numeric), 3 * numeric
        for j, size in zip(layout.discrete, layout.classes, strict=True):
            one_hot = filled[:, place : place + size]
            result[:, j] = (one_hot * expected[:, source : source + size]).sum(1)
            place, source = place + size, source + size
        return result

    def _jacobian(self, values: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
        """log of the compression's slope, and of whole numbers' steps: they are masses. None: all 0."""
        numeric = self.layout.numeric
        steps = np.log(np.where(self.layout.steps > 0, self.layout.steps, 1.0))
        cells = values[:, numeric]
        if not steps.any() and not _any_far(cells):
            return None
        result = np.zeros(values.shape)
        result[:, numeric] = np.where(mask[:, numeric], compressed(cells)[1] + steps, 0.0)
        return result

    def _discrete_terms(self) -> Tensor:
        """Log kernels of the discrete features together, of each exemplar at each one, in bits: (N, >= N)."""
        indicators = self.layout.indicators(self.exemplars, self.observed)
        return torch.from_numpy(indicators) @ self.long[3 * len(self.layout.numeric) : -1]

    def _leave_one_out(self, discrete: Tensor | None = None) -> float:
        """Trimmed mean over exemplars of the log density of the others, without the Jacobian.

        `discrete`: `_discrete_terms` of the same mixing, which need not be computed again.
        """
        values = self.exemplars.copy()  # compressed already, and below FAR nothing changes
        bounds, classes = np.zeros(len(values)), sum(self.layout.classes)
        for rows, count, design, table in self._tiles(values, self.observed):
            if discrete is None:
                joint = design @ table
            else:
                joint = design[:, -1:] @ table[-1:]
                joint += design[:, : -1 - classes] @ table[: -1 - classes]
                joint[:count] += discrete[rows]
            joint[range(count), np.arange(len(values))[rows]] = -math.inf
            bounds[rows] = self._sum(joint, quick=True)[:count].numpy()
        kept = np.sort(bounds)[int(TRIMMED * len(bounds)) :]
        return float(kept.mean())


def compressed(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x, beyond FAR growing as a logarithm, and the log of the slope: monotone and smooth at FAR."""
    if not _any_far(x):
        return x, np.zeros(x.shape)
    excess = np.maximum(np.abs(x) - FAR, 0.0)
    slope = -np.log1p(excess)
    return np.where(excess > 0, np.sign(x) * (FAR - slope), x), slope


def _any_far(x: np.ndarray) -> bool:
    return x.size > 0 and max(x.max(), -x.min()) > FAR
