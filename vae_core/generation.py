"""New records: z ~ N(0, I), x ~ P(x|z), in the user's columns, types, units and categories."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from vae_core.arrow import TYPES
from vae_core.cells import DAY, periodic, typed
from vae_core.chance import private_generator
from vae_core.columns import Column
from vae_core.encoding import TableEncoding
from vae_core.likelihoods import class_log_probabilities
from vae_core.scoring import FittedModel

__all__ = ["rarer", "sample"]

CHUNK = 8192


@torch.no_grad()
def sample(
    model: FittedModel, n: int, *, random_state: int = 0, mean: bool = False, missing: bool = False
) -> pa.Table:
    """n new records as a table: z from the prior, x from P(x|z), or with `mean` the mean of P(x|z).

    Each record comes from one of the ensemble's VAEs, chosen at random; a timestamp that serves as context is
    drawn from the span of training. `missing` imitates the training's share of missing cells, each column by
    itself. A column set apart is drawn by itself, by its shares in training. A category is always one that
    the model knows, see `rarer`. Under a Bernoulli on grey values (the lecture's preset) real columns take
    the mean, since a draw would be 0 or 1. Columns that were left out (identifiers, free text) are not
    generated. Raises ValueError for n < 0.
    """
    if n < 0:
        raise ValueError(f"n must be 0 or more; got {n}")
    generator = torch.Generator().manual_seed(random_state)
    numpy_generator = private_generator("generation", random_state)
    model = model if model.device.type == "cpu" else model.on("cpu")  # draws are the same on any machine
    encoding, architecture = model.encoding, model.vae.architecture
    stamps = _timestamps(model, n, numpy_generator)
    context = torch.from_numpy(periodic(stamps, encoding.periods)) if encoding.periods else torch.zeros(n, 0)
    values = np.zeros((n, len(encoding.features)))
    member = torch.randint(architecture.members, (n,), generator=generator)
    for first in range(0, n, CHUNK):
        part = slice(first, min(first + CHUNK, n))
        z = torch.randn((part.stop - part.start, architecture.latent), generator=generator)
        parameters = model.vae.decode(z.expand(architecture.members, -1, -1), context[part].unsqueeze(0))
        chosen = parameters[member[part], torch.arange(len(z))]
        values[part] = _draw(model, chosen, generator, mean)
    mask = np.ones(values.shape, bool)
    gone = np.zeros((len(encoding.described), n), bool)
    if missing:
        for index, column in enumerate(encoding.described):
            gone[index] = numpy_generator.random(n) < column.missing / max(1, column.rows)
            mask[:, [j for j, f in enumerate(encoding.features) if f.column == index]] &= ~gone[index][
                :, None
            ]
    table = encoding.decode(values, mask, generator=None if mean else numpy_generator)
    for index, column in enumerate(encoding.described):
        if column.apart:
            own = _by_shares(column, n, numpy_generator, mean)
            table = table.append_column(column.name, typed(own, column, gone[index]))
    if encoding.time is not None:
        table = table.append_column(encoding.time, pa.array(stamps.astype(np.int64), TYPES["timestamp"]))
    return table.select([name for name in encoding.columns if name in table.column_names])


def rarer(encoding: TableEncoding) -> dict[str, float]:
    """Of each column with categories that are not generated, beyond the most frequent ones or seen once: the
    share of training's values that were of those."""
    # Old models have no counts.
    columns = [c for c in encoding.described if c.kind == "category" and c.counts]
    shares = {c.name: 1 - sum(c.counts) / c.observed for c in columns}
    return {name: share for name, share in shares.items() if share > 0}


def _timestamps(model: FittedModel, n: int, generator: np.random.Generator) -> np.ndarray:
    """Microseconds since 1970, spread over training's span as its percentiles are; whole seconds."""
    encoding = model.encoding
    if encoding.time is None:
        return np.zeros(n)
    column = next(c for c in encoding.described if c.name == encoding.time)
    drawn = np.interp(generator.random(n), np.linspace(0, 1, len(column.quantiles)), column.quantiles)
    times_of_day = np.unique(np.mod(column.quantiles, DAY))
    if len(times_of_day) == 1:  # daily data: whole days
        return np.floor((drawn - times_of_day[0]) / DAY) * DAY + times_of_day[0]
    return np.floor(drawn / 1e6) * 1e6


def _by_shares(column: Column, n: int, generator: np.random.Generator, mean: bool) -> np.ndarray:
    """Cells of a column set apart: 0 and 1, or class numbers; with `mean` the most frequent one: (n,)."""
    if column.kind == "boolean":
        share = float(column.mean)
        return np.full(n, float(share >= 0.5)) if mean else (generator.random(n) < share).astype(float)
    shares = np.array(column.counts) / sum(column.counts)
    return np.ones(n) if mean else 1.0 + generator.choice(len(shares), n, p=shares)


def _named_class(parameters: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The most probable class that has a name: 'other' only where there is no other."""
    log_p = class_log_probabilities(parameters, scale)
    log_p[..., 0] = torch.where(scale > 1, -torch.inf, log_p[..., 0])
    return log_p.argmax(-1).to(parameters.dtype)


def _draw(model: FittedModel, parameters: torch.Tensor, generator: torch.Generator, mean: bool) -> np.ndarray:
    """Decoder outputs (n, outputs) -> model values (n, m)."""
    vae, encoding = model.vae, model.encoding
    parts = []
    for group in vae.groups:
        chosen = vae.parameters_of(group, parameters)
        scale = vae.scale[group.features].to(chosen.dtype)
        average = group.likelihood.moments(chosen, scale)[0]
        if group.likelihood.name == "categorical":
            average = _named_class(chosen, scale)
        drawn = average if mean else group.likelihood.sample(chosen, scale, generator)
        if group.likelihood.name == "bernoulli":
            grey = [encoding.described[encoding.features[j].column].kind != "boolean" for j in group.features]
            drawn = torch.where(torch.tensor(grey), average, drawn)
        parts.append(drawn)
    values = torch.cat(parts, -1)[:, vae.index].double()
    for index in {f.column for f in encoding.features if f.category >= 0}:
        features = [j for j, f in enumerate(encoding.features) if f.column == index]
        share = values[:, features].clamp(min=1e-9)
        code = share.argmax(-1) if mean else torch.multinomial(share, 1, generator=generator).squeeze(-1)
        values[:, features] = torch.nn.functional.one_hot(code, len(features)).double()
    return values.numpy()
