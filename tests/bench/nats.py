"""Held-out nats of the default against a full-covariance Gaussian mixture, and how tight its bound is.

`python -m tests.bench.nats FOLDER`: tables of real columns only (there both are densities in the same units),
normal records, half to fit on. Per table, in nats a record of the other half: the means (without the lowest
2 %, which a lone record would decide) of the whole model's bound, the VAE's ELBO, and the mixture's
log-density; and the median of what the importance bound with many draws gains over the ELBO: the bound is at
least so far from log P(x).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.bench.methods import Numbers, gaussian_mixture
from tests.bench.quality import drawn, read_tables, split
from vae_core.detector import VAEDetector, as_table

TRIMMED = 0.02


def measure(train: object, test: object, draws: int, seed: int) -> dict[str, float] | None:
    """Figures of one table; None where a column is no real number."""
    model = VAEDetector(random_state=seed).fit(train).model_
    if {f.likelihood for f in model.encoding.features} != {"gaussian"} or model.encoding.left_out:
        return None
    if len(model.encoding.features) != len(model.encoding.described):
        return None  # a constant column is a mass for us and nothing for the mixture
    records: pa.Table = as_table(test)
    scores = model.score(records)
    numbers = Numbers(train)  # standardised by the same deviations, up to rounding
    units = float(np.log(numbers.spread).sum()) + model.encoding.log_jacobian
    tighter = model.importance_bound(records.slice(0, 500), draws=draws)
    mixture = gaussian_mixture(train, seed)(test)
    return {
        "bound": trimmed(scores.bound + units),
        "untilted": trimmed(model.untilted().score(records).bound + units),
        "elbo": trimmed(scores.elbo + units),
        "mixture": trimmed(mixture),
        "tightness": float(np.median(tighter - scores.elbo[:500])),
        "columns": len(model.encoding.features),
    }


def trimmed(nats: np.ndarray) -> float:
    return float(np.sort(nats)[int(TRIMMED * len(nats)) :].mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of Parquet tables with a label column")
    parser.add_argument("--tables", nargs="+", metavar="NAME", help="only these tables")
    parser.add_argument("--draws", type=int, default=1000, help="of the importance bound (default 1,000)")
    parser.add_argument("--output", type=Path, default=Path("bench-results/nats.json"))
    chosen = parser.parse_args()
    found = {}
    print("| table | columns | bound | untilted | ELBO | Gaussian mixture | importance bound - ELBO |")
    print("|---|---|---|---|---|---|---|")
    for table in read_tables(chosen.data, chosen.tables):
        train, test, label = split(drawn(table, 0), "semi", 0)
        own = measure(train, test[label == 0].reset_index(drop=True), chosen.draws, 0)
        if own is None:
            print(f"{table.name}: not of real columns only, left out", file=sys.stderr)
            continue
        found[table.name] = own
        figures = [f"{own[name]:.2f}" for name in ("bound", "untilted", "elbo", "mixture", "tightness")]
        print(f"| {table.name} | {own['columns']} | {' | '.join(figures)} |", flush=True)
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
