"""What the drift counts cost beside scoring: seconds of each, on rows x 100 mixed columns, in one process.

`python -m tests.bench.drift_cost [--rows 200000]`; units as in a real job. JSON on standard output.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import pyarrow as pa
import torch

from vae_core import drift, training

COLUMNS, TRAINED_ON, UNIT = 100, 20_000, 41_943


def make(rows: int, seed: int) -> pa.Table:
    """70 real columns of ten factors, some with missing cells, 10 whole, 10 boolean, 10 of six categories."""
    generator = np.random.default_rng(seed)
    factors = generator.normal(size=(rows, 10))
    loadings = np.random.default_rng(0).normal(size=(10, COLUMNS))
    values = factors @ loadings + generator.normal(size=(rows, COLUMNS))
    columns: dict[str, pa.Array] = {}
    names = np.array(["red", "green", "blue", "black", "white", "grey"], dtype=object)
    for j in range(COLUMNS):
        own = values[:, j]
        if j < 70:
            mask = generator.random(rows) < 0.02 if j % 7 == 0 else None
            columns[f"real{j}"] = pa.array(own, mask=mask)
        elif j < 80:
            columns[f"whole{j}"] = pa.array(np.rint(np.exp(own / 3)).astype(np.int64))
        elif j < 90:
            columns[f"yes{j}"] = pa.array(own > 1)
        else:
            columns[f"colour{j}"] = pa.array(names[np.clip(np.rint(own + 2), 0, 5).astype(int)], pa.string())
    return pa.table(columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    rows = parser.parse_args().rows
    torch.set_num_threads(1)
    learnt = make(TRAINED_ON, 1)
    model = training.fit(lambda: iter(learnt.to_batches()), settings=training.Settings(steps=100))
    profile = drift.profile_of(model)
    assert profile is not None
    scoring = counting = 0.0
    total = np.zeros(profile.width, np.int64)
    for number, first in enumerate(range(0, rows, UNIT)):
        unit = make(min(UNIT, rows - first), 100 + number)
        began = time.process_time()
        scores = model.score(unit)
        scored = time.process_time()
        total += profile.count(unit, scores)
        scoring, counting = scoring + scored - began, counting + time.process_time() - scored
    told = drift.summary(drift.table(profile, total))
    result = {"rows": rows, "columns": COLUMNS, "scoring_s": scoring, "drift_s": counting}
    print(json.dumps({**result, "share": counting / scoring, "verdict": told["verdict"]}, indent=1))


if __name__ == "__main__":
    main()
