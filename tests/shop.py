"""A small table with a story, for the tests of the command line, the registry and the flows.

A shop's sales by the hour in January 2024: the price follows from weight and kind, so that a record with a
price of its own is strange although each of its cells is common. One such record stands in the last week.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

TRAINED_UNTIL = "2024-01-25"
STRANGE = "s0650"  # the planted record's key
ROWS = 744


def sales() -> pd.DataFrame:
    """744 hourly records; always the same ones."""
    generator = np.random.default_rng(7)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    weight = generator.uniform(1, 9, ROWS)
    kind = generator.choice(["apple", "=pear", "[red]plum[/red]"], ROWS)
    price = weight * np.where(kind == "apple", 2.0, np.where(kind == "=pear", 3.0, 5.0))
    frame = pd.DataFrame(
        {
            "sale": [f"s{n:04d}" for n in range(ROWS)],
            "hour": [start + timedelta(hours=n) for n in range(ROWS)],
            "weight": weight.round(3),
            "price": (price + generator.normal(0, 0.2, ROWS)).round(3),
            "kind": kind,
            "card": generator.random(ROWS) < 0.5,
        }
    )
    frame.loc[frame["sale"] == STRANGE, ["weight", "price", "kind"]] = [8.5, 4.0, "[red]plum[/red]"]
    return frame


@dataclass(frozen=True)
class Shop:
    """A working folder with the table as `sales.csv`, and the model `shop` registered in it as version 1."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / ".elborank"


TRAIN = ["train", "sales.csv", "--until", TRAINED_UNTIL, "--name", "shop", "--id", "sale", "--steps", "200"]
SCORE = ["score", "sales.csv", "--from", TRAINED_UNTIL, "--model", "models:/shop@champion"]


DATASET_FILE = """
name = "shop"
source = "sales.csv"
ids = ["sale"]
time = "hour"
output = "{output}"

[score]
every = "{every}"
top_k = 1
"""
