"""Peak memory of ingest and scoring, above that after imports, must not grow with the number of rows.

    python -m tests.bench.memory [--rows 300000 1000000] [--columns 32] [--draws 1] [--equal] [--train]

Each size and phase runs in a process of its own, over columns of Gaussian data. Scoring's cost is in the
draws, its memory is not, so one draw will do. `--equal` also ranks as many records of one and the same
score, `--train` also trains on the largest file, streamed. Linux only: it reads the peak in /proc.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COLUMNS = 32
MOST_GROWTH = 1.30
STREAMED_STEPS = 2000  # of the streamed training: its memory is at its peak long before


def make_raw(path: Path, rows: int, *, columns: int = COLUMNS, equal: bool = False) -> None:
    """Correlated Gaussian columns, written in pieces; or the same record again and again."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(6, columns))
    names = [f"c{j}" for j in range(columns)]
    schema = pa.schema([(name, pa.float64()) for name in names])
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for first in range(0, rows, 50_000):
            n = min(50_000, rows - first)
            x = generator.normal(size=(n, 6)) @ mixing + 0.3 * generator.normal(size=(n, columns))
            x = np.ones_like(x) if equal else x
            writer.write_table(pa.table(dict(zip(names, x.T, strict=True)), schema=schema))


def train(folder: Path, columns: int = COLUMNS) -> Path:
    """A small model of the same columns."""
    from vae_core import sources, storage, training

    make_raw(folder / "train.parquet", 5_000, columns=columns)
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
    elif phase == "train":
        rows = _train_streamed(next((folder / "store").glob("*/[!._]*")))
    else:
        data = next((folder / "store").glob("*/[!._]*"))
        what = job.Job(data, Path(model), folder / "reports", draws=draws, explained=100)
        rows = job.run(what).manifest["counts"]["ranked"]
    peak = round((kibibytes("VmHWM") - base) / 1024, 1)
    whole, seconds = round(kibibytes("VmHWM") / 1024), round(time.monotonic() - start, 1)
    print(json.dumps({"rows": rows, "peak_mib": peak, "whole_mib": whole, "seconds": seconds}))


def _train_streamed(folder: Path) -> int:
    from vae_core import sources, training

    data = sources.open_dataset(folder)
    model = training.fit(
        lambda: sources.batches(data),
        settings=training.Settings(members=1, steps=STREAMED_STEPS),
        stream=lambda number: sources.shuffled(data, number),
    )
    assert model.summary["rows"]["streamed"]
    return model.summary["rows"]["seen"]


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
    parser.add_argument("--columns", type=int, default=COLUMNS)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--equal", action="store_true", help="Also records whose scores are all equal.")
    parser.add_argument("--train", action="store_true", help="Also train on the largest file, streamed.")
    parser.add_argument("--output", type=Path, help="Where to write the results as JSON.")
    parser.add_argument("--measure", nargs=3, metavar=("PHASE", "RAW", "MODEL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure, options.draws)
        return
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="elborank-memory-") as temporary:
        model = train(Path(temporary), options.columns)
        for rows in options.rows:
            for equal in (False, True)[: 1 + options.equal]:
                one_size(Path(temporary), model, rows, found, options, equal=equal)
    peaks = {phase: [entry["peak_mib"] for entry in values] for phase, values in found.items()}
    growth = {phase: round(values[-1] / values[0], 3) for phase, values in peaks.items()}
    for phase, times in growth.items():
        print(f"{phase}: the peak is {times:.2f} times as large; allowed: {MOST_GROWTH:.2f}")
    if options.output:
        options.output.write_text(json.dumps({"measured": found, "growth": growth}, indent=1) + "\n")
    sys.exit(any(times >= MOST_GROWTH for times in growth.values()))


def one_size(
    folder: Path,
    model: Path,
    rows: int,
    found: dict[str, list[dict[str, float]]],
    options: argparse.Namespace,
    *,
    equal: bool,
) -> None:
    """Ingest and score one file, and train on it if it is the largest; then delete it."""
    raw = folder / f"{rows}{'-equal' * equal}" / f"{rows}.parquet"
    raw.parent.mkdir()
    make_raw(raw, rows, columns=options.columns, equal=equal)
    last = options.train and not equal and rows == max(options.rows)
    for phase in ("ingest", "score", "train")[: 2 + last]:
        spent = in_a_process(phase, raw, model, options.draws)
        assert spent["rows"] == rows
        name = f"{phase}, all scores equal" if equal else phase
        print(f"{rows:>9} rows x {options.columns} columns, {name}: {spent}", flush=True)
        if not (equal and phase == "ingest"):
            found.setdefault(name, []).append(spent)
    shutil.rmtree(raw.parent)


if __name__ == "__main__":
    main()
