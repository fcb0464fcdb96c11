"""How well do detectors find labelled anomalies? `python -m tests.bench.quality FOLDER`.

A table is a Parquet file of the folder with a column `label` (1 = anomaly); `record_id` is no feature. At
most 5,000 rows of each are used, the same for every method: anomalies at their share, but 20 of them if there
are.

- semi: fit on a random half of the normal records, score the other half and all anomalies.
- unsup: fit and score all records.
- new: fit on a random half of all records, anomalies at their share, score the other half: what a scheduled
  job meets whose training data was never cleaned.

The label is never seen in fitting. Figures: AUROC and average precision for each table, their means, the mean
rank among the methods, and CPU seconds. A method that raises, or gives a score that is not finite, is
reported as failed, ranks last on that table, and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_auc_score
from threadpoolctl import threadpool_limits

from tests.bench.methods import DEFAULT, METHODS
from tests.bench.methods import method as method_of

MOST_ROWS, FEWEST_ANOMALIES = 5_000, 20
PROTOCOLS = ("semi", "unsup", "new")


@dataclass(frozen=True)
class Labelled:
    """A table: features (n, m), label (n,) with 1 = anomaly."""

    name: str
    features: pd.DataFrame
    label: np.ndarray


@dataclass
class Result:
    """One method on one table; figures are null where it failed."""

    table: str
    protocol: str
    seed: int
    method: str
    rows_fitted: int
    rows_scored: int
    anomalies: int
    auroc: float | None = None
    average_precision: float | None = None
    fit_cpu_seconds: float | None = None
    score_cpu_seconds: float | None = None
    failed: str | None = None


def read_tables(folder: Path, wanted: list[str] | None) -> list[Labelled]:
    """The labelled tables of a folder in the order of their names. Exits with 2 where there is none."""
    files = [f for f in sorted(folder.glob("*.parquet")) if "label" in pq.read_schema(f).names]
    files = [f for f in files if wanted is None or f.stem in wanted]
    if not files:
        sys.exit(f'{folder}: no Parquet table with a column "label" here. Give a folder that holds some.')
    tables = []
    for file in files:
        frame = pq.read_table(file).to_pandas()
        label = frame["label"].to_numpy() == 1
        features = frame.drop(columns=[name for name in ("label", "record_id") if name in frame])
        tables.append(Labelled(file.stem, features, label.astype(np.int64)))
    return tables


def drawn(table: Labelled, seed: int) -> Labelled:
    """At most MOST_ROWS rows in their order, anomalies at their share (FEWEST_ANOMALIES if there are)."""
    n, anomalies = len(table.label), int(table.label.sum())
    if n <= MOST_ROWS:
        return table
    generator = np.random.default_rng([seed, 1])
    keep = min(anomalies, max(FEWEST_ANOMALIES, round(MOST_ROWS * anomalies / n)))
    parts = [
        generator.choice(np.flatnonzero(table.label == value), size, replace=False)
        for value, size in ((1, keep), (0, MOST_ROWS - keep))
    ]
    rows = np.sort(np.concatenate(parts))
    return Labelled(table.name, table.features.iloc[rows].reset_index(drop=True), table.label[rows])


def split(table: Labelled, protocol: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """(train, test, label of test). In unsup train is test, the very object."""
    if protocol == "unsup":
        return table.features, table.features, table.label
    generator = np.random.default_rng([seed, 2])
    normal, strange = (generator.permutation(np.flatnonzero(table.label == value)) for value in (0, 1))
    fitted = len(strange) // 2 if protocol == "new" else 0
    half = len(normal) // 2
    train, test = np.r_[normal[:half], strange[:fitted]], np.r_[normal[half:], strange[fitted:]]
    train.sort()
    test.sort()
    take = table.features.iloc
    return take[train].reset_index(drop=True), take[test].reset_index(drop=True), table.label[test]


def measure(table: Labelled, protocol: str, seed: int, name: str) -> Result:
    """Fit and score one method; whatever goes wrong is written into the result."""
    train, test, label = split(table, protocol, seed)
    result = Result(table.name, protocol, seed, name, len(train), len(test), int(label.sum()))
    try:
        started = time.process_time()
        score = method_of(name)(train, seed)
        fitted = time.process_time()
        scores = np.asarray(score(test))
        result.score_cpu_seconds = time.process_time() - fitted
        result.fit_cpu_seconds = fitted - started
        if scores.shape != label.shape or not np.isfinite(scores).all():
            raise ValueError(f"{(~np.isfinite(scores)).sum()} of {len(label)} scores are not finite")
        result.auroc = float(roc_auc_score(label, -scores))
        result.average_precision = float(average_precision_score(label, -scores))
    except Exception as error:  # noqa: BLE001 - a bench reports every failure of a method and goes on
        result.failed = f"{type(error).__name__}: {error}"
    return result


def summarise(results: list[Result], methods: list[str]) -> Iterator[dict[str, Any]]:
    """For each protocol and method: means over tables (of means over seeds), rank, distance to the first."""
    frame = pd.DataFrame([asdict(result) for result in results])
    for protocol, part in frame.groupby("protocol", sort=False):
        wide = {
            figure: part.pivot_table(index="table", columns="method", values=figure, dropna=False).reindex(
                columns=methods
            )
            for figure in ("auroc", "average_precision")
        }
        ranks = {
            figure: rankdata(-table.fillna(-1).to_numpy(), axis=1).mean(0) for figure, table in wide.items()
        }
        for place, method in enumerate(methods):
            own = part[part["method"] == method]
            gaps = {figure: (table[methods[0]] - table[method]).dropna() for figure, table in wide.items()}
            yield {
                "protocol": protocol,
                "method": method,
                "tables": int(wide["auroc"][method].notna().sum()),
                "failed": int(own["failed"].notna().sum()),
                "auroc": float(wide["auroc"][method].mean()),
                "average_precision": float(wide["average_precision"][method].mean()),
                "mean_rank": float(ranks["auroc"][place]),
                "mean_rank_by_precision": float(ranks["average_precision"][place]),
                "first_is_better_by": float(gaps["auroc"].mean()),
                "first_is_better_by_se": standard_error(gaps["auroc"]),
                "first_is_more_precise_by": float(gaps["average_precision"].mean()),
                "first_is_more_precise_by_se": standard_error(gaps["average_precision"]),
                "fit_cpu_seconds": float(own["fit_cpu_seconds"].sum()),
                "score_cpu_seconds": float(own["score_cpu_seconds"].sum()),
            }


def standard_error(gap: pd.Series) -> float | None:
    """Of a mean difference over tables; None for a single one."""
    return float(gap.std() / np.sqrt(len(gap))) if len(gap) > 1 else None


def circumstances(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a reader needs to judge or repeat the run."""
    names = ("elborank", "torch", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy")
    return {
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain", "--untracked-files=no")),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in names},
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_at_start": os.getloadavg(),
        "settings": {
            "protocols": arguments.protocols,
            "seeds": arguments.seeds,
            "methods": arguments.methods,
            "threads": arguments.threads,
            "most_rows": MOST_ROWS,
            "fewest_anomalies": FEWEST_ANOMALIES,
        },
    }


def git(*command: str) -> str | None:
    """git's answer about this checkout; None outside one."""
    done = subprocess.run(
        ["git", *command], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def save(output: Path, content: dict[str, Any]) -> None:
    """JSON under a temporary name, then renamed: a stopped run leaves the last whole state."""
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(output)


def show(console: Console, results: list[Result], summary: list[dict[str, Any]], methods: list[str]) -> None:
    """Per table AUROC / average precision of every method, then means, ranks and CPU seconds."""
    for protocol in dict.fromkeys(result.protocol for result in results):
        chosen = [result for result in results if result.protocol == protocol]
        page = Table(title=f"{protocol}: AUROC / average precision")
        page.add_column("table")
        for method in methods:
            page.add_column(method, justify="right", no_wrap=True)
        for name in dict.fromkeys(result.table for result in chosen):
            cells = [[r for r in chosen if r.table == name and r.method == method] for method in methods]
            page.add_row(name, *(cell(found) for found in cells))
        page.add_section()
        rows = [row for row in summary if row["protocol"] == protocol]
        page.add_row("mean", *(f"{row['auroc']:.3f} / {row['average_precision']:.3f}" for row in rows))
        page.add_row(
            "mean rank", *(f"{row['mean_rank']:.2f} / {row['mean_rank_by_precision']:.2f}" for row in rows)
        )
        page.add_row(f"{methods[0]} ahead, AUROC", *(ahead(row, "first_is_better_by") for row in rows))
        page.add_row("ahead, precision", *(ahead(row, "first_is_more_precise_by") for row in rows))
        page.add_row("CPU s, fit", *(f"{row['fit_cpu_seconds']:.1f}" for row in rows))
        page.add_row("CPU s, score", *(f"{row['score_cpu_seconds']:.1f}" for row in rows))
        console.print(page)
    for result in results:
        if result.failed:
            console.print(
                f"failed: {result.method} on {result.table}, {result.protocol}: {result.failed}", markup=False
            )


def cell(found: list[Result]) -> str:
    if not found or any(result.failed for result in found):
        return "failed" if found else ""
    auroc = np.mean([result.auroc for result in found if result.auroc is not None])
    precision = np.mean([r.average_precision for r in found if r.average_precision is not None])
    return f"{auroc:.3f} / {precision:.3f}"


def ahead(row: dict[str, Any], figure: str) -> str:
    error = row[f"{figure}_se"]
    return f"{row[figure]:+.3f}" + (f" (se {error:.3f})" if error is not None else "")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of Parquet tables with a label column")
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument(
        "--methods",
        nargs="+",
        default=DEFAULT,
        metavar="METHOD",
        help=f"which of {', '.join(METHODS)}; elborank:latent=8 changes settings; "
        "default: all but those from PyOD, which needs `pip install pyod tqdm`",
    )
    parser.add_argument(
        "--tables", nargs="+", metavar="NAME", help="only these tables (file names without ending)"
    )
    parser.add_argument("--seeds", type=int, default=1, help="number of splits and model seeds (default 1)")
    parser.add_argument("--threads", type=int, default=1, help="for each method, so that CPU seconds compare")
    parser.add_argument("--output", type=Path, default=Path("bench-results/quality.json"))
    chosen = parser.parse_args(arguments)
    for name in chosen.methods:
        try:
            method_of(name)
        except ValueError as error:
            parser.error(str(error))
    return chosen


def main(arguments: list[str] | None = None) -> int:
    chosen = parse(arguments)
    tables = read_tables(chosen.data, chosen.tables)
    content = circumstances(chosen)
    torch.set_num_threads(chosen.threads)
    jobs = [
        (table, protocol, seed, method)
        for table in tables
        for seed in range(chosen.seeds)
        for protocol in chosen.protocols
        for method in chosen.methods
    ]
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    results: list[Result] = []
    with bar, threadpool_limits(chosen.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the methods, about single tables; they do not change a figure
        task = bar.add_task("", total=len(jobs))
        for table, protocol, seed, method in jobs:
            bar.update(task, description=f"{table.name}, {protocol}, {method}")
            results.append(measure(drawn(table, seed), protocol, seed, method))
            content |= {
                "summary": list(summarise(results, chosen.methods)),
                "results": [asdict(result) for result in results],
                "load_at_end": os.getloadavg(),
                "complete": len(results) == len(jobs),
            }
            save(chosen.output, content)
            bar.advance(task)
    show(
        Console(width=max(100, Console().width, 24 + 16 * len(chosen.methods))),
        results,
        content["summary"],
        chosen.methods,
    )
    print(f"Saved: {chosen.output}")
    return int(any(result.failed for result in results))


if __name__ == "__main__":
    sys.exit(main())
