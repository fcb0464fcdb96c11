"""The pictures of a report: image, expectation and map of the images ranked first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vae_core import sources
from vae_core.images.maps import maps, side_by_side
from vae_core.images.model import ImageModel

__all__ = ["draw"]

KEYS = ["record_id", "source", "row"]


def draw(
    model: ImageModel,
    data: sources.Dataset,
    units: Sequence[sources.Unit],
    scored: Sequence[Path],
    top: pa.Table,
    folder: Path,
) -> int:
    """Write `rank-000001.png`, ... for the rows of `top` (the report's first, in order); how many.

    `scored` are the units' files, each sorted as the report is: what is among the first of all is among the
    first of its unit.
    """
    wanted = {tuple(row.values()): rank for rank, row in enumerate(top.select(KEYS).to_pylist(), start=1)}
    folder.mkdir(parents=True, exist_ok=True)
    drawn = 0
    for unit, path in zip(units, scored, strict=True):
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            rows = file.iter_batches(batch_size=len(wanted), columns=[*KEYS, "_offset"], use_threads=False)
            first = next(rows, None)
        here = [] if first is None else [row for row in first.to_pylist() if _key(row) in wanted]
        if not here:
            continue
        table = sources.read(data, unit).take(pa.array([row["_offset"] for row in here]))
        found = maps(model, model.encoding.encode(table))
        for place, row in enumerate(here):
            rank = wanted[_key(row)]
            (folder / f"rank-{rank:06d}.png").write_bytes(side_by_side(found, place))
            drawn += 1
    return drawn


def _key(row: dict[str, object]) -> tuple[object, ...]:
    return tuple(row[name] for name in KEYS)
