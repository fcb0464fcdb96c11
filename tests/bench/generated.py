"""Generated records against their peers': `python -m tests.bench.generated FOLDER [--tables NAME ...]`.

For each Parquet table with a column `label` (1 = anomaly): the default model learns the normal records; a
classifier then tells its records, as many of probabilistic PCA, and as many of CTGAN's TVAE (extra `bench`)
from the real ones. AUROC, cross-validated; 0.5 is best, 1 means that it always can. One line for each table.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from flows.synthetic import realism
from tests.bench.quality import Labelled, drawn, read_tables
from vae_core import generation, sources, training

NAMES = ("vae", "ppca", "tvae")


def compare(table: Labelled, folder: Path, *, rows: int, seed: int) -> dict[str, float | None]:
    """The three AUROCs of one table."""
    normal = table.features[table.label == 0]
    raw = folder / f"{table.name}.parquet"
    normal.to_parquet(raw)
    data = sources.ingest(raw, folder / "store")
    model = training.fit(lambda: sources.batches(data), settings=training.Settings(random_state=seed))
    made = generation.sample(model, min(rows, len(normal)), random_state=seed)
    found = realism(model, data, made, seed=seed, peer=True)
    assert found is not None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tables", nargs="*", help="Only these.")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{'table':24}" + "".join(f"{name:>8}" for name in NAMES))
    found = []
    for whole in read_tables(options.folder, options.tables):
        table = drawn(whole, options.seed)
        with tempfile.TemporaryDirectory(prefix="elborank-generated-") as folder:
            found.append(compare(table, Path(folder), rows=options.rows, seed=options.seed))
        print(f"{table.name:24}" + "".join(_figure(found[-1].get(name)) for name in NAMES), flush=True)
    means = [
        statistics.mean(value for one in found if (value := one.get(name)) is not None) for name in NAMES
    ]
    print(f"{'mean':24}" + "".join(_figure(mean) for mean in means))


def _figure(value: float | None) -> str:
    return f"{value:8.3f}" if value is not None else f"{'-':>8}"


if __name__ == "__main__":
    main()
