"""Training: processor time until pythae's final held-out ELBO is reached, same likelihood and network.

    python -m tests.bench.training_speed [--rows 100000] [--epochs 20] [--seeds 5]   (make bench-training)

Both train the lecture's VAE (32 boolean columns that six factors decide, 64 and 64 rectified units, 8
latents, Bernoulli terms) on the same records in one thread: pythae with its own defaults (batches of 64, Adam
at 1e-4) for some epochs, ours for 6,500 steps with batches of 256, Adam at 4e-3, ramp and cosine. The ELBO
is the mean over the same held-out records with 16 shared draws. `--pythaes FILE` keeps pythae's results,
which do not depend on ours, for the next run.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from vae_core import descent, sources, training
from vae_core.encoding import TableEncoding
from vae_core.records import TrainingRecords, gather

COLUMNS, HIDDEN, LATENT, DRAWS = 32, 64, 8, 16


def make_booleans(path: Path, rows: int) -> None:
    """Whether linear mixtures of six factors and some noise are positive: terms that are masses, not grey."""
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(6, COLUMNS))
    x = generator.normal(size=(rows, 6)) @ mixing + 0.3 * generator.normal(size=(rows, COLUMNS)) > 0
    pq.write_table(pa.table({f"c{j}": x[:, j] for j in range(COLUMNS)}), path)


def elbo(encode: Any, logits: Any, x: torch.Tensor) -> float:
    """Mean ELBO in nats of records in [0, 1] under Bernoulli terms, with shared noise, for both alike."""
    noise = torch.randn(DRAWS, 1, LATENT, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean, log_variance = encode(x)
        z = mean + noise * (0.5 * log_variance).exp()
        miss = nn.functional.binary_cross_entropy_with_logits(
            logits(z), x.expand(DRAWS, -1, -1), reduction="none"
        )
        kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(-1)
        return float((-miss.sum(-1).mean(0) - kl).mean())


def ours(encoding: TableEncoding, records: TrainingRecords, held: torch.Tensor, seed: int) -> list[Any]:
    """(processor seconds, ELBO) at each look of our training."""
    settings = training.Settings(
        preset="lecture",
        hidden=(HIDDEN, HIDDEN),
        latent=LATENT,
        members=1,
        steps=6500,
        learning_rate=4e-3,
        random_state=seed,
        device="cpu",
    )
    start, outside = time.process_time(), 0.0
    run = training._prepare(encoding, records, settings)
    points = []
    nothing = torch.zeros(len(held), 0)

    def look(_: Any) -> None:
        nonlocal outside
        now = time.process_time()
        points.append((now - start - outside, elbo(encode, decode, held)))
        outside += time.process_time() - now

    def encode(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_variance = run.vae.encode(x, nothing)
        return mean[0], log_variance[0]

    def decode(z: torch.Tensor) -> torch.Tensor:
        flat = run.vae.decode(z.reshape(1, -1, LATENT), torch.zeros(1, z.shape[0] * z.shape[1], 0))
        return flat.reshape(*z.shape[:2], -1)

    descent.optimise(run, look, None)
    return points


def pythaes(train: torch.Tensor, held: torch.Tensor, seed: int, epochs: int) -> tuple[float, float]:
    """pythae's processor seconds for all its epochs, and the held-out ELBO at the end."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.disable(logging.WARNING)
    m = train.shape[1]

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(m, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU())
            self.mean, self.log_variance = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)

        def forward(self, x: torch.Tensor) -> ModelOutput:
            h = self.layers(x)
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_variance(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Sequential(
                nn.Linear(LATENT, HIDDEN),
                nn.ReLU(),
                nn.Linear(HIDDEN, HIDDEN),
                nn.ReLU(),
                nn.Linear(HIDDEN, m),
            )

        def forward(self, z: torch.Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=torch.sigmoid(self.logits(z)))

    torch.manual_seed(seed)
    config = VAEConfig(input_dim=(m,), latent_dim=LATENT, reconstruction_loss="bce")
    model = VAE(config, encoder=Encoder(), decoder=Decoder())
    with tempfile.TemporaryDirectory() as folder:
        trainer = BaseTrainer(
            model,
            _with_labels(train),
            training_config=BaseTrainerConfig(output_dir=folder, num_epochs=epochs, seed=seed, no_cuda=True),
        )
        start = time.process_time()
        trainer.train()
        seconds = time.process_time() - start

    def encode(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        code = model.eval().encoder(x)
        return code.embedding, code.log_covariance

    return seconds, elbo(encode, model.decoder.logits, held)


def kept(path: Path | None, seed: int, measure: Callable[[], tuple[float, float]]) -> tuple[float, float]:
    """What `measure` gives, or gave in an earlier run with the same file: pythae's part is the slow one."""
    known = json.loads(path.read_text()) if path is not None and path.exists() else {}
    if str(seed) not in known:
        known[str(seed)] = measure()
        if path is not None:
            path.write_text(json.dumps(known))
    seconds, target = known[str(seed)]
    return seconds, target


def _with_labels(train: torch.Tensor) -> Any:
    from pythae.data.datasets import BaseDataset

    return BaseDataset(train, torch.zeros(len(train)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=20, help="Of pythae.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pythaes", type=Path, help="A file that keeps pythae's results between runs.")
    parser.add_argument("--output", type=Path, help="Where to write the results as JSON.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="elborank-training-") as temporary:
        raw = Path(temporary) / "rows.parquet"
        make_booleans(raw, options.rows)
        data = sources.ingest(raw, Path(temporary) / "store")
        encoding = TableEncoding.fit(sources.batches(data), preset="lecture")
        records = gather(sources.batches(data), encoding, 0.1, 0.05, 0)
    held, train = (
        torch.from_numpy(np.ascontiguousarray(part.values, np.float32))
        for part in (records.selection, records.fit)
    )
    results = []
    for seed in range(options.seeds):
        points = ours(encoding, records, held, seed)
        measure = functools.partial(pythaes, train, held, seed, options.epochs)
        seconds, target = kept(options.pythaes, seed, measure)
        reached = next((spent for spent, value in points if value >= target), None)
        results.append(
            {"seed": seed, "pythae_seconds": round(seconds, 2), "pythae_elbo": round(target, 4)}
            | {
                "our_seconds": None if reached is None else round(reached, 2),
                "our_final": round(points[-1][1], 4),
            }
            | {"share": None if reached is None else round(reached / seconds, 4)}
        )
        print(json.dumps(results[-1]), flush=True)
    shares = [r["share"] if r["share"] is not None else float("inf") for r in results]
    summary = {"seeds": results, "median_share": statistics.median(shares), "worst_share": max(shares)}
    summary |= {"rows": options.rows, "epochs": options.epochs, "load": os.getloadavg()[0]}
    print(
        f"time to pythae's final ELBO: {summary['median_share']} of pythae's (worst {summary['worst_share']})"
    )
    if options.output:
        options.output.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
