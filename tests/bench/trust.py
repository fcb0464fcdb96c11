"""Can a report be trusted? Calibration and explanation, measured: `python -m tests.bench.trust FOLDER`.

A table is a Parquet file of the folder with a column `label` (1 = anomaly). As in the protocol "semi" of
`tests.bench.quality`, the model is fitted on half of the normal records; the others are fresh.

- calibration: a two-sample Kolmogorov-Smirnov test of the calibration scores against fresh normal scores,
  whose p-values should lie under .05 in 5 % of tables and seeds; the false discovery proportion at FDR .1
  over fresh normal records and anomalies; ties in the first 100 between records with different values.
- explanation: one cell of a fresh normal record swapped with another record's, times 10, with its sign
  flipped, another category, or made missing. Of those that reach the top 1 %: is the planted column the
  first reason, or among the first three? And how often does the expected range (80 %) hold the true value?

One JSON line for each table and seed as it is done, then the summary.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from scipy import stats

from tests.bench.quality import Labelled, drawn, read_tables, split
from vae_core import explanation, training
from vae_core.columns import Column
from vae_core.imputation import NORMAL_90, expected_given_others
from vae_core.scoring import FittedModel

FDR, TOP, TIES = 0.1, 0.01, 100
PLACES = 8  # columns that each error is spread over
NUMBERS, CLASSES = ("real", "whole"), ("category", "boolean")
ERRORS = ("swapped", "times 10", "sign", "category", "missing")


def calibration(model: FittedModel, fresh: pa.Table, anomalies: pa.Table) -> dict[str, Any]:
    """KS of fresh scores against the calibration scores, false discoveries, ties in the first 100."""
    normal, strange = model.score(fresh), model.score(anomalies)
    p = np.r_[normal.p_value, strange.p_value]
    flagged = stats.false_discovery_control(p) <= FDR
    false = int(flagged[: fresh.num_rows].sum())
    together = pa.concat_tables([fresh, anomalies]).to_pandas()
    scores = np.r_[normal.anomaly_score, strange.anomaly_score]
    first = np.argsort(-scores, kind="stable")[:TIES]
    same_values = len(together.iloc[first].drop_duplicates())
    return {
        "ks_p": float(stats.ks_2samp(model.calibration.scores, normal.anomaly_score).pvalue),
        "flagged": int(flagged.sum()),
        "fdp": false / max(1, int(flagged.sum())),
        "ties": same_values - len(np.unique(scores[first])),
        # Without a fitted tail (under 100 calibration records) p-values are empirical, and must tie.
        "ties_in_p": same_values - len(np.unique(p[first]))
        if np.isfinite(model.calibration.threshold)
        else None,
        "calibration": len(model.calibration.scores),
        "fresh": fresh.num_rows,
    }


def planted(
    values: np.ndarray, pool: np.ndarray, kind: str, error: str, generator: np.random.Generator
) -> np.ndarray | None:
    """Cells with the error, as objects; `pool` is the whole column. None where a column cannot have it."""
    number = kind in ("real", "whole")
    if error == "missing":
        return np.full(len(values), None, object)
    if error == "times 10" and number:
        return values * 10
    if error == "sign" and number:
        return -values
    if error == "swapped":
        return pool[generator.integers(0, len(pool), len(values))]
    if error == "category" and kind in ("category", "boolean"):
        known = np.array(sorted({v for v in pool.tolist() if v is not None and v == v}, key=str), object)
        if len(known) < 2:
            return None
        return np.array([generator.choice([k for k in known if k != v]) for v in values.tolist()], object)
    return None


def with_error(
    model: FittedModel, fresh: pa.Table, error: str, each: int, generator: np.random.Generator
) -> Iterator[tuple[Column, pa.Table, pa.Table, np.ndarray]]:
    """Columns that can have the error, with some of the records, those with it, and which of them differ."""
    can = NUMBERS if error in ("times 10", "sign") else CLASSES if error == "category" else NUMBERS + CLASSES
    columns = [c for c in model.encoding.described if c.modelled and c.kind in can]
    columns = [c for c in columns if c.name in fresh.column_names]
    for _ in range(min(PLACES, len(columns)) if each else 0):
        column = columns[int(generator.integers(len(columns)))]
        rows = generator.choice(fresh.num_rows, min(each // PLACES, fresh.num_rows), replace=False)
        some = fresh.take(pa.array(np.sort(rows)))
        before = some[column.name].to_numpy(zero_copy_only=False)
        pool = fresh[column.name].to_numpy(zero_copy_only=False)
        after = planted(before, pool, column.kind, error, generator)
        if after is None:
            continue
        place = fresh.column_names.index(column.name)
        cells = pa.array(after, some[column.name].type, from_pandas=True)
        was = [None if v != v else v for v in before.tolist()]
        differs = np.array([now != then for now, then in zip(cells.to_pylist(), was, strict=True)])
        yield column, some, some.set_column(place, column.name, cells), differs


def explained(model: FittedModel, fresh: pa.Table, seed: int, each: int) -> dict[str, Any]:
    """For each error: planted, in the top 1 %, named first, named in the first three."""
    generator = np.random.default_rng([seed, 7])
    limit = np.quantile(model.score(fresh).anomaly_score, 1 - TOP)
    result: dict[str, Any] = {}
    for error in ERRORS:
        count = dict.fromkeys(("planted", "reached", "first", "three"), 0)
        for column, some, changed, differs in with_error(model, fresh, error, each, generator):
            # Records of the top 1 % have reasons of their own.
            ordinary = model.score(some).anomaly_score <= limit
            reached = np.flatnonzero(differs & ordinary & (model.score(changed).anomaly_score > limit))
            count["planted"] += int((differs & ordinary).sum())
            count["reached"] += len(reached)
            if not len(reached):
                continue
            told = explanation.explain(model, changed.take(pa.array(reached)), top=3)
            for reasons in told["reasons"].to_pylist():
                names = [reason["feature"] for reason in reasons]
                count["first"] += names[0] == column.name
                count["three"] += column.name in names
        result[error] = count
    return result


def classed(table: Labelled, classes: int) -> Labelled:
    """Every third column as a category of quantile classes: the tables of ADBench have hardly any."""
    features = table.features.copy()
    for name in features.columns[::3]:
        cuts = np.unique(np.nanquantile(features[name], np.arange(1, classes) / classes))
        place = np.searchsorted(cuts, features[name].to_numpy(np.float64), side="right")
        features[name] = pd.Series([f"q{k + 1}" for k in place], index=features.index, dtype=object)
    return Labelled(table.name, features, table.label)


def coverage(model: FittedModel, fresh: pa.Table, seed: int) -> tuple[int, int]:
    """Numbers of normal records, hidden in turn: those that lie in their expected range, and all."""
    generator = np.random.default_rng([seed, 8])
    some = fresh.take(pa.array(generator.choice(fresh.num_rows, min(300, fresh.num_rows), replace=False)))
    encoded = model.encoding.encode(some)
    described = model.encoding.described
    real = [c for c, column in enumerate(described) if column.modelled and column.kind in ("real", "whole")]
    if not real:
        return 0, 0
    column = generator.choice(np.array(real), some.num_rows)
    mean, variance = expected_given_others(model, encoded, column)
    owner = {f.column: j for j, f in enumerate(model.encoding.features)}
    at = np.arange(some.num_rows), np.array([owner[c] for c in column])
    seen = encoded.mask[at]
    widening = np.array([model.calibration.ranges.get(described[c].name, 1.0) for c in column])
    inside = np.abs(encoded.values[at] - mean[at]) <= NORMAL_90 * widening * np.sqrt(variance[at])
    return int((inside & seen).sum()), int(seen.sum())


def one(
    table: Labelled, seed: int, *, rows: int, settings: training.Settings, each: int, classes: int | None
) -> dict[str, Any]:
    """Fit on half of the normal records, and measure on the rest."""
    began = time.process_time()
    taken = drawn(table, seed)
    if len(taken.label) > rows:
        keep = np.sort(np.random.default_rng([seed, 3]).choice(len(taken.label), rows, replace=False))
        taken = Labelled(table.name, taken.features.iloc[keep].reset_index(drop=True), taken.label[keep])
    taken = classed(taken, classes) if classes else taken
    train, test, label = split(taken, "semi", seed)
    learnt, scored = (pa.Table.from_pandas(part, preserve_index=False) for part in (train, test))
    model = training.fit(lambda: iter(learnt.to_batches()), settings=replace(settings, random_state=seed))
    fresh = scored.filter(pa.array(label == 0))
    result = {
        "table": table.name,
        "seed": seed,
        **calibration(model, fresh, scored.filter(pa.array(label == 1))),
    }
    result |= {"errors": explained(model, fresh, seed, each), "coverage": coverage(model, fresh, seed)}
    return result | {"cpu_s": round(time.process_time() - began, 1)}


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures that the reports promise."""
    told: dict[str, Any] = {
        "runs": len(results),
        "ks_p_under_.05": float(np.mean([r["ks_p"] < 0.05 for r in results])),
        "mean_fdp": float(np.mean([r["fdp"] for r in results])),
        "ties_in_the_first_100": sum(r["ties"] for r in results),
        "ties_in_p_in_the_first_100": sum(r["ties_in_p"] or 0 for r in results),
    }
    for name in ERRORS:
        counts = [r["errors"][name] for r in results]
        told[name] = {key: sum(count[key] for count in counts) for key in counts[0]}
    reached = sum(told[name]["reached"] for name in ERRORS)
    for key in ("first", "three"):
        told[f"named_{key}"] = sum(told[name][key] for name in ERRORS) / max(1, reached)
    inside, seen = np.sum([r["coverage"] for r in results], axis=0)
    told["range_holds"] = float(inside / max(1, seen))
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tables", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=5_000, help="at most so many of a table")
    parser.add_argument("--error-seeds", type=int, default=1, help="so many of the seeds plant errors too")
    parser.add_argument("--each", type=int, default=40, help="cells planted of each kind of error")
    parser.add_argument(
        "--classes", type=int, help="every third column becomes a category of so many classes"
    )
    parser.add_argument("--steps", type=int, help="of training; default: the recipe's")
    parser.add_argument("--output", type=Path, help="write all of it as JSON")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    settings = training.Settings(steps=chosen.steps)
    results = []
    for table in read_tables(chosen.folder, chosen.tables):
        for seed in range(chosen.seeds):
            found = one(
                table,
                seed,
                rows=chosen.rows,
                settings=settings,
                each=chosen.each if seed < chosen.error_seeds else 0,
                classes=chosen.classes,
            )
            results.append(found)
            print(json.dumps(found), flush=True)
    told = summary(results)
    print(json.dumps(told, indent=1))
    if chosen.output:
        chosen.output.write_text(json.dumps({"summary": told, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
