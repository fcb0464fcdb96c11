"""What a GPU gains: scoring and training beside the processor's, on the same machine, and how scores differ.

    python -m tests.bench.gpu [--rows 2000000] [--workers 1 4 8]

By the clock, since two devices share the work; what loads a device's libraries included in the jobs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from tests.bench.memory import make_raw
from tests.bench.speed import make_model
from vae_core import job, sources, storage, training
from vae_core.images import training as of_images
from vae_core.images.encoding import as_table
from vae_core.images.pixels import Shape

DEVICES = ("cpu", "cuda")
MODELS: dict[str, dict[str, Any]] = {
    "default": {},
    "vae, 1 draw": {"draws": 1, "members": ("vae",)},
    "vae, 64 draws": {"draws": 64, "members": ("vae",)},
}


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def model_alone(folder: Path, model: Path, rows: int) -> dict[str, dict[str, float]]:
    """Microseconds a record of the model itself, and how far a GPU's bounds lie from the processor's."""
    data = sources.open_dataset(folder)
    table = sources.read(data, job.cut(data)[0]).slice(0, rows)
    found: dict[str, dict[str, float]] = {}
    for name, options in MODELS.items():
        scores = {}
        for device in DEVICES:
            fitted = storage.load(model).on(device)
            fitted = fitted.with_draws(options["draws"]) if "draws" in options else fitted
            fitted = fitted.with_members(list(options["members"])) if "members" in options else fitted
            fitted.score(table)
            start = time.perf_counter()
            scores[device] = fitted.score(table)
            took = time.perf_counter() - start
            found.setdefault(name, {})[device] = took / table.num_rows * 1e6
        apart = np.abs(scores["cuda"].bound - scores["cpu"].bound)
        ranks = [np.argsort(np.argsort(scores[device].bound)) for device in DEVICES]
        found[name] |= {
            "largest difference, nats": float(apart.max()),
            "spread of bounds, nats": float(scores["cpu"].bound.std()),
            "largest move of a rank": float(np.abs(ranks[0] - ranks[1]).max()),
        }
    return found


def jobs(folder: Path, model: Path, output: Path, workers: list[int]) -> dict[str, float]:
    """Microseconds a record of whole jobs, by the clock: from the dataset to the published report."""
    rows, found = sources.open_dataset(folder).rows, {}
    for device in DEVICES:
        for count in workers:
            place = Path(tempfile.mkdtemp(dir=output))
            what = job.Job(folder, model, place, device=device, explained=rows // 300)
            took = seconds(partial(job.run, what, workers=count))
            found[f"{device}, {count} workers"] = took / rows * 1e6
    return found


def steps_of_training(folder: Path) -> dict[str, dict[str, float]]:
    """Milliseconds a step of training: what 200 steps take longer than 50."""
    data = sources.open_dataset(folder)
    digits = as_table(np.rint(load_digits().images[..., None] * (255 / 16)).astype(np.uint8))

    def of_table(**options: Any) -> None:
        training.fit(lambda: sources.batches(data), settings=training.Settings(**options))

    def images(**options: Any) -> None:
        options.pop("kernel_weight")
        of_images.fit(
            lambda: iter(digits.to_batches()), Shape(8, 8, 1), settings=training.Settings(**options)
        )

    found: dict[str, dict[str, float]] = {}
    for name, work, options in (
        ("table, 256 records", of_table, {}),
        ("table, 1,024 records", of_table, {"batch_size": 1024}),
        ("table, 4,096 records", of_table, {"batch_size": 4096}),
        ("table, 1,024 records, 256 units", of_table, {"batch_size": 1024, "hidden": (256, 256)}),
        ("images of 8 x 8", images, {}),
    ):
        for device in DEVICES:
            run = partial(work, **options, device=device, kernel_weight=0, draws=1)
            run(steps=2)  # loads what the device needs
            short, long = (seconds(partial(run, steps=steps)) for steps in (50, 200))
            found.setdefault(name, {})[device] = (long - short) / 150 * 1e3
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 8])
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU that torch can use: nothing to compare")
    print(torch.cuda.get_device_name(), torch.__version__)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = make_model(folder)
        make_raw(folder / "new.parquet", given.rows)
        data = sources.ingest(folder / "new.parquet", folder / "store").folder
        make_raw(folder / "some.parquet", 20_000)
        some = sources.ingest(folder / "some.parquet", folder / "store").folder
        print(json.dumps(model_alone(data, model, 65_536), indent=1), flush=True)
        print(json.dumps(steps_of_training(some), indent=1), flush=True)
        print(json.dumps(jobs(data, model, folder, given.workers), indent=1), flush=True)


if __name__ == "__main__":
    main()
