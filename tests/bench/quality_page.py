"""The tables of docs/quality.md from saved results: `python -m tests.bench.quality_page FILE...`.

Several files of `quality` (halves of the tables, more methods) are put together.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd

from tests.bench.quality import Result, summarise

TITLES = {
    "elborank": "elborank",
    "elborank-vae": "elborank, `--members vae`",
    "lecture": "lecture preset",
    "ppca": "probabilistic PCA",
    "iforest": "Isolation Forest",
    "knn": "kNN, standardised",
    "knn-minmax": "kNN, min-max",
    "lof": "LOF",
    "pca": "PCA",
    "gmm": "Gaussian mixture",
    "ecod": "ECOD",
    "pyod-vae": "PyOD's VAE",
}
NAMES = {
    "semi": "Trained on half of the normal records",
    "unsup": "Trained on everything",
    "new": "Trained on half of everything",
}


def main(files: list[str]) -> None:
    results = [
        Result(**row)
        for file in files
        for row in json.loads(Path(file).read_text(encoding="utf-8"))["results"]
    ]
    frame = pd.DataFrame([vars(r) for r in results])
    order = [*TITLES, *sorted({r.method for r in results} - set(TITLES))]
    used = frame.groupby("protocol")["method"].agg(set)
    methods = {p: [name for name in order if name in used[p]] for p in used.index}
    protocols = [name for name in NAMES if name in set(frame["protocol"])]
    for protocol in protocols:
        chosen = [r for r in results if r.protocol == protocol]
        print(f"\n## {NAMES[protocol]}\n")
        print(
            line(
                "",
                "AUROC",
                "precision",
                "rank",
                "rank, precision",
                "elborank ahead",
                "in precision",
                "fit, CPU s",
            )
        )
        print("|" + "---|" * 8)
        fits = frame[frame["protocol"] == protocol].groupby("method")["fit_cpu_seconds"].median()
        for row in summarise(chosen, methods[protocol]):
            print(
                line(
                    TITLES.get(row["method"], f"`{row['method']}`"),
                    f"{row['auroc']:.3f}",
                    f"{row['average_precision']:.3f}",
                    f"{row['mean_rank']:.2f}",
                    f"{row['mean_rank_by_precision']:.2f}",
                    f"{row['first_is_better_by']:+.3f} ± {row['first_is_better_by_se'] or 0:.3f}",
                    f"{row['first_is_more_precise_by']:+.3f} ± {row['first_is_more_precise_by_se'] or 0:.3f}",
                    f"{fits[row['method']]:.2f}",
                )
            )
        spread(frame[frame["protocol"] == protocol])
    for protocol in protocols:
        print(f"\n### {NAMES[protocol]}, table by table\n")
        print(line("table", *(TITLES.get(m, m) for m in methods[protocol])))
        print("|" + "---|" * (1 + len(methods[protocol])))
        part = frame[frame["protocol"] == protocol]
        means = part.groupby(["table", "method"])[["auroc", "average_precision"]].mean()
        for table in sorted(set(part["table"])):
            cells = [means.loc[(table, m)] if (table, m) in means.index else None for m in methods[protocol]]
            shown = ["" if c is None else f"{c['auroc']:.3f} / {c['average_precision']:.3f}" for c in cells]
            print(line(table, *shown))


def spread(part: pd.DataFrame) -> None:
    """How far the default's means move from split to split."""
    own = part[part["method"] == "elborank"].groupby("seed")[["auroc", "average_precision"]].mean()
    if len(own) > 1:
        told = ", ".join(f"{row.auroc:.3f} / {row.average_precision:.3f}" for row in own.itertuples())
        print(f"\nelborank on each split: {told}.")


def line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main(sys.argv[1:])
