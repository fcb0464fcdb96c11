"""What the default costs by the kind of columns, one thread: a fit, and scoring, the model alone.

    python -m tests.bench.kinds [--rows 32768] [--repeats 5]     (make bench-speed)

32 columns of one kind, or mixed: real, whole numbers, yes or no, categories of six; or 30 of these and two
of sixty. Processor seconds for a fit to 5,000 records, processor microseconds for scoring one.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from vae_core import training

COLUMNS, TRAINED_ON = 32, 5_000
COLOURS = np.array(["red", "green", "blue", "black", "white", "grey"], dtype=object)
KINDS = {
    "real": ("real",),
    "whole": ("whole",),
    "boolean": ("boolean",),
    "category": ("category",),
    "mixed": ("real", "whole", "boolean", "category"),
    "two large": (*["category"] * 15, "large"),
}


def table(rows: int, kinds: tuple[str, ...], seed: int) -> pa.Table:
    """Columns of six factors and some noise, turned into the kinds in turn."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=(6, COLUMNS))
    factors = generator.normal(size=(rows, 6))
    x = factors @ mixing + 0.3 * generator.normal(size=(rows, COLUMNS))
    large = [j for j in range(COLUMNS) if kinds[j % len(kinds)] == "large"]
    x[:, large] = factors[:, :1] + 0.3 * generator.normal(size=(rows, len(large)))  # else they are set apart
    made = {
        "real": lambda own: pa.array(own),
        "whole": lambda own: pa.array(np.rint(4 * own).astype(np.int64)),
        "boolean": lambda own: pa.array(own > 0),
        "category": lambda own: pa.array(COLOURS[np.clip(np.rint(own + 2), 0, 5).astype(int)], pa.string()),
        "large": lambda own: pa.array([f"shop {min(max(round(12 * v + 30), 0), 59)}" for v in own]),
    }
    return pa.table({f"c{j:02}": made[kinds[j % len(kinds)]](x[:, j]) for j in range(COLUMNS)})


def cost(kinds: tuple[str, ...], rows: int, repeats: int) -> tuple[float, list[float]]:
    """Seconds of a fit, and microseconds a record of each repetition; a first one warms up."""
    learnt = table(TRAINED_ON, kinds, 1)
    start = time.process_time()
    model = training.fit(lambda: iter(learnt.to_batches()))
    fit = time.process_time() - start
    records, spent = table(rows, kinds, 2), []
    for _ in range(repeats + 1):
        start = time.process_time()
        model.score(records)
        spent.append((time.process_time() - start) / rows * 1e6)
    return fit, sorted(spent[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=32_768)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="Where to write the results as JSON.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    for name, kinds in KINDS.items():
        fit, spent = cost(kinds, options.rows, options.repeats)
        found[name] = {
            "fit_seconds": round(fit, 1),
            "median": round(float(np.median(spent)), 1),
            "range": [round(spent[0], 1), round(spent[-1], 1)],
        }
        own = f"{found[name]['median']:7.1f} microseconds a record ({spent[0]:.1f} to {spent[-1]:.1f})"
        print(f"{name:10} {own}, fit {fit:.1f} s", flush=True)
    if options.output:
        result = {"by_kind": found, "rows": options.rows, "load": os.getloadavg()[0]}
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
