"""Peak memory of ingesting and scoring a folder of images must not grow with the number of files.

    python -m tests.bench.images_memory [--files 10000 100000] [--side 28]

Grey PNG files in folders of 1,000; the commands run as a user runs them, each in a process of its own. Its
peak is what the kernel counted, interpreter and imports included. Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SCORE = ("--model", "models:/pictures@champion")
ALLOWED = 1.1  # times the peak of the fewest files


def make(folder: Path, count: int, side: int) -> Path:
    """Smooth random pictures, no two alike."""
    generator = np.random.default_rng(count)
    across = np.linspace(0, np.pi, side)
    for number in range(count):
        if number % 1000 == 0:
            (folder / f"{number // 1000:04d}").mkdir(parents=True)
        rows, columns = generator.uniform(1, 4, 2)
        grey = 127 * (1 + np.sin(rows * across)[:, None] * np.cos(columns * across))
        noisy = (grey + generator.normal(0, 8, (side, side))).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number // 1000:04d}" / f"{number}.png")
    return folder


def command(work: Path, *arguments: str) -> dict[str, float]:
    """Run elborank in `work`: its peak in MiB, processor and clock seconds, and the records it counted."""
    began = time.monotonic()
    out = work / "said.json"
    with out.open("w") as said:
        child = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "flows.cli", *arguments, "--json"],
            {**os.environ, "ELBORANK_HOME": str(work / "home"), "PYTHONPATH": str(Path.cwd())},
            file_actions=[(os.POSIX_SPAWN_DUP2, said.fileno(), 1)],
        )
        _, status, spent = os.wait4(child, 0)
    if status:
        sys.exit(f"elborank {' '.join(arguments)}: status {status}\n{out.read_text()}")
    told = json.loads(out.read_text())
    counted = told.get("ranked", told.get("rows"))
    return {
        "records": counted,
        "peak_mib": round(spent.ru_maxrss / 1024),
        "cpu_s": round(spent.ru_utime + spent.ru_stime, 1),
        "clock_s": round(time.monotonic() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--side", type=int, default=28)
    parser.add_argument("--output", type=Path, help="Where to write the results as JSON.")
    options = parser.parse_args()
    peaks: dict[str, list[float]] = {}
    measured: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="elborank-images-memory-") as temporary:
        work = Path(temporary)
        known = make(work / "known", 1000, options.side)
        command(work, "train", str(known), "--name", "pictures")
        for count in options.files:
            folder = make(work / f"files-{count}", count, options.side)
            for name, arguments in {
                "ingest": ("ingest", str(folder)),
                "score": ("score", str(folder), *SCORE, "--output", str(work / "out")),
            }.items():  # fmt: skip
                spent = command(work, *arguments)
                assert spent["records"] == count, spent
                print(f"{count:>7} files, {name}: {spent}", flush=True)
                peaks.setdefault(name, []).append(spent["peak_mib"])
                measured.append({"phase": name, **spent})
    growth = {name: round(values[-1] / values[0], 3) for name, values in peaks.items()}
    for name, times in growth.items():
        print(f"{name}: the peak is {times:.2f} times as large; allowed: {ALLOWED:.2f}")
    if options.output:
        options.output.write_text(json.dumps({"measured": measured, "growth": growth}, indent=1) + "\n")
    sys.exit(any(times > ALLOWED for times in growth.values()))


if __name__ == "__main__":
    main()
