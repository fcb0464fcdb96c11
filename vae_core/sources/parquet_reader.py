"""Parquet files, read in record batches with their page checksums verified (where the file has them)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vae_core.arrow import UNREADABLE
from vae_core.errors import InputError
from vae_core.sources.blocks import Block, check_names
from vae_core.sources.files import Source

PANDAS_INDEX = "__index_level_"
CELLS_PER_BATCH = 2_000_000


class ParquetReader:
    """One Parquet file: `names` and `types` of its columns from the footer, `blocks()` its records."""

    def __init__(self, source: Source, **_: object) -> None:
        self.source = source
        try:
            with pq.ParquetFile(source.path) as file:
                schema = file.schema_arrow
                self.records: int = file.metadata.num_rows
        except UNREADABLE as cause:
            raise InputError(
                f"is not a complete Parquet file: {_short(cause)}",
                file=source.path,
                fix="Copy or export it again",
            ) from cause
        check_names(schema.names, source.path)
        self.types: dict[str, pa.DataType] = dict(zip(schema.names, schema.types, strict=True))
        self.names: list[str] = schema.names

    def blocks(self, columns: list[str]) -> Iterator[Block]:
        """The records in order, with these columns. Raises InputError for a damaged file."""
        size = max(1024, min(65_536, CELLS_PER_BATCH // max(1, len(columns))))
        count = 0
        try:
            # Buffering ahead would hold the whole file while it is read.
            with pq.ParquetFile(self.source.path, page_checksum_verification=True, pre_buffer=False) as file:
                for batch in file.iter_batches(batch_size=size, columns=columns, use_threads=False):
                    batch.validate(full=True)  # else text that is not UTF-8 comes through
                    yield Block(batch.select(columns), np.arange(count, count + batch.num_rows) + 1, [])
                    count += batch.num_rows
        except UNREADABLE as cause:
            raise InputError(
                f"cannot be read after row {count}: {_short(cause)}",
                file=self.source.path,
                fix="Copy or export it again",
            ) from cause
        if count != self.records:
            raise InputError(f"promises {self.records} rows and holds {count}", file=self.source.path)


def _short(cause: Exception) -> str:
    return str(cause).splitlines()[0][:160] if str(cause) else type(cause).__name__
