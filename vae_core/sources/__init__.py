"""Raw files -> datasets -> units -> record batches.

`ingest` types, checks and counts the records of Parquet and CSV files once; everything later reads the
dataset folder that it publishes. A new input format is a reader (`names`, `types`, `blocks`) and a line in
`ingest.READERS`.
"""

from vae_core.arrow import TYPES
from vae_core.sources.dataset import (
    Dataset,
    Part,
    Unit,
    batches,
    is_dataset,
    leaving_out,
    open_dataset,
    plan,
    read,
    shuffled,
)
from vae_core.sources.ingest import DEFAULT_NULLS, ingest

__all__ = [
    "DEFAULT_NULLS",
    "TYPES",
    "Dataset",
    "Part",
    "Unit",
    "batches",
    "ingest",
    "is_dataset",
    "leaving_out",
    "open_dataset",
    "plan",
    "read",
    "shuffled",
]
