"""How the cost of scoring and of a training step grows with rows, columns, draws and latents.

    python -m tests.bench.growth [--repeats 3]     (make bench-speed)

Each factor is doubled from a middle point; the exponent is the slope of log time over log size between the
smallest and the largest (1: linear; below: a fixed part is left). Processor time, one thread, least of some.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from vae_core import training
from vae_core.encoding import TableEncoding
from vae_core.records import gather
from vae_core.scoring import FittedModel

MIDDLE = {"rows": 16_384, "columns": 16, "draws": 4, "latents": 16}
SIZES = {
    "rows": (4096, 8192, 16_384, 32_768, 65_536),
    "columns": (16, 32, 64, 128),
    "draws": (4, 8, 16, 32),
    "latents": (8, 16, 32, 64),
}


def table(rows: int, columns: int, seed: int = 0) -> pa.Table:
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(columns).normal(size=(4, columns))
    x = generator.normal(size=(rows, 4)) @ mixing + 0.3 * generator.normal(size=(rows, columns))
    return pa.table({f"c{j}": x[:, j] for j in range(columns)})


def fitted(columns: int, latents: int) -> FittedModel:
    settings = training.Settings(steps=2, latent=latents, columns_weight=0.0)
    return training.fit(lambda: iter(table(2000, columns).to_batches()), settings=settings)


def least(work: Callable[[], Any], repeats: int) -> float:
    """Processor seconds of the quickest repetition."""
    best = math.inf
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def scoring(size: dict[str, int], repeats: int) -> float:
    model = fitted(size["columns"], size["latents"]).with_draws(size["draws"])
    records = table(size["rows"], size["columns"], seed=1)
    return least(lambda: model.score(records), repeats)


def steps(size: dict[str, int], repeats: int) -> float:
    """100 training steps of 256 records (the same, whatever the number of rows)."""
    from vae_core import descent

    settings = training.Settings(steps=100, latent=size["latents"], device="cpu")
    data = table(size["rows"], size["columns"])
    encoding = TableEncoding.fit(iter(data.to_batches()))
    records = gather(iter(data.to_batches()), encoding, 0.0, 0.0, 0)
    runs = [training._prepare(encoding, records, settings) for _ in range(repeats)]
    return least(lambda: descent.optimise(runs.pop(), None, None), repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="Where to write the results as JSON.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    for what, measure in (("score", scoring), ("train", steps)):
        for factor, sizes in SIZES.items():
            if what == "train" and factor in ("rows", "draws"):
                continue  # a step takes 256 records and one draw
            seconds = [measure(MIDDLE | {factor: size}, options.repeats) for size in sizes]
            exponent = math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0])
            result[f"{what} by {factor}"] = {
                "sizes": sizes, "seconds": [round(s, 4) for s in seconds], "exponent": round(exponent, 2),
            }  # fmt: skip
            print(f"{what} by {factor}: {result[f'{what} by {factor}']}", flush=True)
    result["load"] = os.getloadavg()[0]
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
