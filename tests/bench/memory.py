"""Peak memory of ingest and scoring, above that after imports, must not grow with the number of rows.

    python -m tests.bench.memory [--rows 300000 1000000] [--draws 1]

Each size and phase runs in a process of its own, over 32 columns of Gaussian data. Scoring's cost is in the
draws, its memory is not, so one draw will do. Linux only: it reads and resets the peak in /proc.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COLUMNS = 32
MOST_GROWTH = 1.30


def make_raw(path: Path, rows: int) -> None:
    """Correlated Gaussian columns, written in pieces."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(6, COLUMNS))
    names = [f"c{j}" for j in range(COLUMNS)]
    schema = pa.schema([(name, pa.float64()) for name in names])
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for first in range(0, rows, 50_000):
            n = min(50_000, rows - first)
            x = generator.normal(size=(n, 6)) @ mixing + 0.3 * generator.normal(size=(n, COLUMNS))
            writer.write_table(pa.table(dict(zip(names, x.T, strict=True)), schema=schema))


def train(folder: Path) -> Path:
    """A small model of the same columns."""
    from vae_core import sources, storage, training

    make_raw(folder / "train.parquet", 5_000)
    data = sources.ingest(folder / "train.parquet", folder / "store")
    settings = training.Settings(steps=60, members=1)
    storage.save(training.fit(lambda: sources.batches(data), settings=settings), folder / "model")
    return folder / "model"


def kibibytes(name: str) -> int:
    """VmRSS (now) or VmHWM (the peak) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name)))


def measure(phase: str, raw: str, model: str, draws: int) -> None:
    """Ingest or score one file; print mebibytes above those after imports, and seconds, as JSON."""
    from vae_core import explanation, job, sources, storage, training

    assert explanation and training
    columns = storage.load(model).encoding.columns
    folder = Path(raw).parent
    base, start = kibibytes("VmRSS"), time.monotonic()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    if phase == "ingest":
        rows = sources.ingest(raw, folder / "store", columns=columns).rows
    else:
        data = next((folder / "store").glob("*/[!._]*"))
        what = job.Job(data, Path(model), folder / "reports", draws=draws, explained=100)
        rows = job.run(what).manifest["counts"]["ranked"]
    peak = round((kibibytes("VmHWM") - base) / 1024, 1)
    print(json.dumps({"rows": rows, "peak_mib": peak, "seconds": round(time.monotonic() - start, 1)}))


def in_a_process(phase: str, raw: Path, model: Path, draws: int) -> dict[str, float]:
    """What `measure` prints."""
    options = ["--draws", str(draws), "--measure", phase, str(raw), str(model)]
    command = [sys.executable, "-m", "tests.bench.memory", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=[300_000, 1_000_000])
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--measure", nargs=3, metavar=("PHASE", "RAW", "MODEL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure, options.draws)
        return
    peaks: dict[str, list[float]] = {"ingest": [], "score": []}
    with tempfile.TemporaryDirectory(prefix="elborank-memory-") as temporary:
        model = train(Path(temporary))
        for rows in options.rows:
            raw = Path(temporary) / str(rows) / f"{rows}.parquet"
            raw.parent.mkdir()
            make_raw(raw, rows)
            for phase, values in peaks.items():
                found = in_a_process(phase, raw, model, options.draws)
                assert found["rows"] == rows
                print(f"{rows:>9} rows x {COLUMNS} columns, {phase}: {found}", flush=True)
                values.append(found["peak_mib"])
    for phase, values in peaks.items():
        growth = values[-1] / values[0] - 1
        print(f"{phase}: the peak grows by {growth:.0%}; allowed: less than {MOST_GROWTH - 1:.0%}")
    sys.exit(any(values[-1] / values[0] >= MOST_GROWTH for values in peaks.values()))


if __name__ == "__main__":
    main()
