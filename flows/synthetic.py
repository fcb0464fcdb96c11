"""Generated records: written whole, and compared with the data column by column, beside those of pPCA."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows import outputs, steps
from flows.peer import tvae, tvae_sample
from flows.registry import ModelVersion
from flows.terminal import csv_cell, is_formula
from vae_core import generation, publishing, sources, storage
from vae_core.arrow import numbers, texts, vectors
from vae_core.encoding import TableEncoding
from vae_core.errors import InputError
from vae_core.images.model import ImageModel
from vae_core.ppca import ProbabilisticPCA
from vae_core.realism import told_apart
from vae_core.scoring import FittedModel

__all__ = ["column_distance", "compare", "linear_sample", "realism", "write_sample"]

MOST_ROWS = 50_000  # of the data; evenly spaced rows


def write_sample(
    version: ModelVersion,
    n: int,
    output: str,
    *,
    mean: bool = False,
    missing: bool = False,
    seed: int = 0,
    data: str | None = None,
    like: str | None = None,
    peer: bool = False,
    replace: bool = False,
) -> dict[str, Any]:
    """Draw n records, write them to `output` (.parquet or .csv) whole or not at all, and compare them.

    Of images: an .npz file or a folder of PNG files; with `like`, an image, the nearest normal one. `peer`:
    also compare with a TVAE's records.
    """
    model = storage.load(version.folder)
    if isinstance(model, ImageModel):
        from flows import synthetic_images

        if peer:
            raise InputError("a TVAE makes records of tables, no images", fix="Leave out --peer")
        if like is not None:
            return synthetic_images.write_nearest(version, model, like, output, replace=replace)
        known = training_data(version, data)
        return synthetic_images.write_sample(
            version, model, n, output, seed=seed, data=known, replace=replace
        )
    if like is not None:
        raise InputError("only an image has a nearest normal one", fix="Leave out --like")
    target = Path(output)
    if target.suffix.lower() not in (".parquet", ".csv"):
        raise InputError(
            "is neither Parquet nor CSV by its name", file=output, fix="End it in .parquet or .csv"
        )
    outputs.check(output, replace=replace)
    if target.suffix.lower() == ".csv" and model.encoding.vectors:
        raise InputError("cannot hold vectors: it is CSV", file=output, fix="End the name in .parquet")
    if peer:
        tvae()  # whether it is there is known before work begins
    known = training_data(version, data)
    if peer and known is None:
        fix = "Name data of the same columns with --data"
        raise InputError("the training data are not where they were, and a TVAE learns from data", fix=fix)
    table = generation.sample(model, n, random_state=seed, mean=mean, missing=missing)
    with outputs.written(output, replace=replace) as place:
        _write_whole(table, place)
    return {
        "model": version.name,
        "model_version": version.version,
        "n": n,
        "output": output,
        "guarded": guarded(table) if target.suffix.lower() == ".csv" else [],
        "not_generated": [name for name in model.encoding.columns if name not in table.column_names],
        "rarer": generation.rarer(model.encoding),
        "compared_with": str(known.folder) if known is not None else None,
        "distances": compare(model, known, table, seed=seed) if known is not None else [],
        "realism": realism(model, known, table, seed=seed, peer=peer) if known is not None else None,
    }


def realism(
    model: FittedModel, data: sources.Dataset, generated: pa.Table, *, seed: int, peer: bool = False
) -> dict[str, float | None]:
    """How well a classifier tells generated records from the data's, as many of pPCA, of a TVAE on request.

    By the modelled columns as the model sees them; a missing cell is missing there too.
    """
    encoding = model.encoding
    table = some_rows(data, list(encoding.columns))
    linear = linear_sample(
        encoding, table, generated.num_rows, seed=seed, latent=model.vae.architecture.latent
    )
    made = {"vae": generated, "ppca": linear}
    if peer:
        other = tvae_sample(encoding, table, generated.num_rows, seed=seed)
        if other is not None:
            made["tvae"] = other
    sides = []
    for records in (table, *made.values()):
        columns = [
            records.column(c.name)
            if c.name in records.column_names
            else pa.nulls(len(records), table[c.name].type)
            for c in encoding.described
        ]
        encoded = encoding.encode(pa.table(columns, names=list(encoding.columns)))
        sides.append(np.where(encoded.mask, encoded.values, np.nan))
    real, *others = sides
    told: dict[str, float | None] = {"tvae": None} if peer else {}
    told |= {name: told_apart(real, side, random_state=seed) for name, side in zip(made, others, strict=True)}
    return told


def of_interval(output: str, start: datetime) -> str:
    """The file of a scheduled generation: one for each interval.

    >>> of_interval("out/new.parquet", datetime(2024, 1, 1, tzinfo=UTC))
    'out/new-20240101T000000Z.parquet'
    >>> of_interval("s3://out/new.parquet", datetime(2024, 1, 1, tzinfo=UTC))
    's3://out/new-20240101T000000Z.parquet'
    """
    target = Path(output)
    name = f"{target.stem}-{start.astimezone(UTC):%Y%m%dT%H%M%SZ}{target.suffix}"
    return outputs.with_name(output, name)


def training_data(version: ModelVersion, path: str | None) -> Any:
    """The dataset to compare with: the one named, or the one of training if it still lies where it was."""
    if path is not None:
        return steps.ingest(path, **steps.as_the_model_reads(version))
    folder = version.tags.get("dataset_folder", "")
    if not folder or not sources.is_dataset(folder):
        return None
    data = sources.open_dataset(folder)
    return data if data.digest == version.tags.get("dataset_digest") else None


def guarded(table: pa.Table) -> list[str]:
    """The columns in whose name or texts a CSV file has an apostrophe that the records have not.

    >>> guarded(pa.table({"a": ["=1+1", "x"], "+h": [1, 2], "b": ["y", None], "c": [-1.0, -2.0]}))
    ['a', '+h']
    """
    return [
        name
        for name, column in zip(table.column_names, table.columns, strict=True)
        if is_formula(name)
        or (pa.types.is_string(column.type) and any(map(is_formula, column.unique().drop_null().to_pylist())))
    ]


def _write_whole(table: Any, target: Path) -> None:
    """The table under its name when it is complete; a full disk leaves nothing behind."""
    with publishing.whole_file(target) as temporary:
        if target.suffix.lower() == ".csv":
            _write_csv(table, temporary)
        else:
            pq.write_table(table, temporary, write_page_checksum=True)


def _write_csv(table: Any, path: Path) -> None:
    """As ingest reads it; times in ISO 8601, and an apostrophe before what a spreadsheet would obey: it is
    what opens CSV files, and a category may come from anybody.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([csv_cell(name) for name in table.column_names])
        for batch in table.to_batches(max_chunksize=10_000):
            writer.writerows([csv_cell(value) for value in row.values()] for row in batch.to_pylist())


def compare(
    model: FittedModel, data: sources.Dataset, generated: pa.Table, *, seed: int
) -> list[dict[str, Any]]:
    """For each generated column its distance to the data, and that of as many records drawn from pPCA."""
    table = some_rows(data, list(model.encoding.columns))
    linear = linear_sample(
        model.encoding, table, generated.num_rows, seed=seed, latent=model.vae.architecture.latent
    )
    kinds = model.encoding.kinds
    rows = []
    for name in generated.column_names:
        measure, distance = column_distance(table.column(name), generated.column(name), kinds[name])
        other = linear.column(name) if name in linear.column_names else None
        rows.append(
            {
                "column": name,
                "measure": measure,
                "vae": distance,
                "ppca": column_distance(table.column(name), other, kinds[name])[1]
                if other is not None
                else None,
            }
        )
    return rows


def column_distance(real: pa.ChunkedArray, made: pa.ChunkedArray, kind: str) -> tuple[str, float]:
    """Numbers and times: Kolmogorov-Smirnov, the largest gap between the distribution functions (of vectors:
    those of their lengths); else total variation, half the sum of differences of the shares. Both lie between
    0 (the same) and 1 (apart); missing cells are left out.

    >>> column_distance(pa.chunked_array([["a", "a", "b", "c"]]), pa.chunked_array([["a", "b"]]), "category")
    ('total variation', 0.25)
    >>> column_distance(pa.chunked_array([[1.0, 2.0]]), pa.chunked_array([[5.0]]), "real")
    ('Kolmogorov-Smirnov', 1.0)
    """
    if kind == "vector":
        real, made = (pa.chunked_array([np.linalg.norm(vectors(x), axis=1)]) for x in (real, made))
    if kind in ("real", "whole", "timestamp", "vector") or (
        kind == "constant" and not pa.types.is_string(real.type)
    ):
        a, b = (np.sort(x[~np.isnan(x)]) for x in (numbers(real), numbers(made)))
        if not (len(a) and len(b)):
            return "Kolmogorov-Smirnov", float(len(a) != len(b))
        at = np.concatenate([a, b])
        gaps = np.searchsorted(a, at, side="right") / len(a) - np.searchsorted(b, at, side="right") / len(b)
        return "Kolmogorov-Smirnov", float(np.abs(gaps).max())
    shares: list[dict[str, float]] = []
    for column in (real, made):
        counted = pc.value_counts(texts(column).drop_null()).to_pylist()
        total = max(1, sum(entry["counts"] for entry in counted))
        shares.append({entry["values"]: entry["counts"] / total for entry in counted})
    gap = sum(abs(shares[0].get(value, 0) - shares[1].get(value, 0)) for value in shares[0] | shares[1])
    return "total variation", 0.5 * gap


def some_rows(data: sources.Dataset, columns: list[str]) -> pa.Table:
    """At most MOST_ROWS evenly spaced rows, without the leading columns."""
    step = max(1, -(-data.rows // MOST_ROWS))
    taken, first = [], 0
    for batch in sources.batches(data, columns=columns):
        places = np.arange(-first % step, batch.num_rows, step)
        taken.append(batch.select(columns).take(pa.array(places)))
        first += batch.num_rows
    return pa.Table.from_batches(taken)


def linear_sample(encoding: TableEncoding, table: pa.Table, n: int, *, seed: int, latent: int) -> pa.Table:
    """n records from probabilistic PCA fitted to the same columns, in the user's units, types and categories.

    Categories enter one-hot and leave as the largest of their values; booleans by the nearer of 0 and 1.
    """
    encoded = encoding.encode(table)
    values = np.where(encoded.mask, encoded.values, np.nan)
    wide, back = _one_hot(encoding, values)
    drawn = ProbabilisticPCA(min(latent, max(1, wide.shape[1] - 1))).fit(wide).sample(n, random_state=seed)
    made = np.stack(
        [drawn[:, at].argmax(1) if at.stop - at.start > 1 else drawn[:, at.start] for at in back], 1
    )
    lecture = {j for j, f in enumerate(encoding.features) if f.category >= 0}
    if lecture:  # one-hot already: the inverse takes the largest itself
        made = drawn
    return encoding.decode(made).select(
        [c.name for c in encoding.described if c.modelled or c.kind == "constant"]
    )


def _one_hot(encoding: TableEncoding, values: np.ndarray) -> tuple[np.ndarray, list[slice]]:
    """Class numbers spread over columns of their own; and where each feature's columns are."""
    blocks, places, start = [], [], 0
    for j, feature in enumerate(encoding.features):
        column = values[:, j]
        if feature.likelihood == "categorical":
            block = np.where(
                np.isnan(column)[:, None], np.nan, column[:, None] == np.arange(int(feature.scale))
            )
        else:
            block = column[:, None]
        blocks.append(block)
        places.append(slice(start, start + block.shape[1]))
        start += block.shape[1]
    return np.concatenate(blocks, axis=1), places
