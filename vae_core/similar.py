"""Normal records that are like a strange one: nearest in latent space, its strange cells hidden.

With its strange values the record would have a code of its own, far from all others. So the columns that made
it strange are hidden first, and what is asked is: which normal records are like the rest of this one?
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vae_core.imputation import imputed
from vae_core.report import Report
from vae_core.scoring import FittedModel

__all__ = ["MOST", "nearest", "normal_records"]

MOST = 20_000  # normal records that are looked through
TYPICAL = 0.5  # p-values from here on: half of training's held-out records are at least as anomalous
KEY = ["record_id", "source", "row"]


def normal_records(report: Report) -> pa.Table:
    """Which records of a report are normal: not flagged, p-value at least .5 (or, without, the lower half).

    record_id, source, row, rank; of more than `MOST` evenly spaced ones by rank.
    """
    columns = [*KEY, "rank", "p_value", "flagged"]
    pieces = []
    with pq.ParquetFile(report.path, page_checksum_verification=True) as file:
        middle = file.metadata.num_rows // 2
        for group in range(file.num_row_groups):
            here = file.read_row_group(group, columns=columns, use_threads=False)
            by_p = pc.greater_equal(here["p_value"], TYPICAL)
            typical = pc.if_else(pc.is_null(here["p_value"]), pc.greater(here["rank"], middle), by_p)
            pieces.append(here.filter(pc.and_(typical, pc.invert(here["flagged"]))).select([*KEY, "rank"]))
    found = pa.concat_tables(pieces)
    if found.num_rows <= MOST:
        return found
    return found.take(pa.array(np.linspace(0, found.num_rows - 1, MOST).astype(int)))


def nearest(
    model: FittedModel,
    record: pa.Table,
    candidates: Iterable[pa.Table],
    *,
    hidden: Sequence[str],
    n: int,
) -> pa.Table:
    """The n candidates nearest to a record (a table of one row), with a column `_distance`, nearest first.

    The columns `hidden` of the record are replaced by what the others imply. The distance is Euclidean
    between the means of Q(z|x), where the prior has a standard deviation of 1; root mean square over the
    ensemble.
    """
    encoded = model.encoding.encode(record)
    names = list(model.encoding.columns)
    cells = np.array([[names[feature.column] in hidden for feature in model.encoding.features]])
    mean, _ = imputed(model, encoded, cells)
    values = np.where(cells, mean, encoded.values)
    ours = model.codes(replace(encoded, values=values, mask=encoded.mask | cells))
    best: pa.Table | None = None
    for table in candidates:
        apart = model.codes(model.encoding.encode(table)) - ours
        distance = np.sqrt((apart**2).sum(-1).mean(-1))
        table = table.append_column("_distance", pa.array(distance))
        both = table if best is None else pa.concat_tables([best, table])
        order = [("_distance", "ascending"), ("_record_id", "ascending"), ("_row", "ascending")]
        best = both.take(pc.sort_indices(both, sort_keys=order)[:n])
    return record.slice(0, 0).append_column("_distance", pa.array([], pa.float64())) if best is None else best
