"""The Python page runs as it stands; the model page's numbers and names are the code's."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from vae_core import (
    calibration,
    cells,
    columns,
    gate,
    likelihoods,
    noise,
    records,
    scoring,
    storage,
    training,
)
from vae_core.members import kernel
from vae_core.scoring import Scores

DOCS = Path(__file__).parents[1] / "docs"


def test_the_examples_of_the_python_page_print_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    without_fences = re.sub(r"^```\w*$", "", (DOCS / "python.md").read_text(), flags=re.MULTILINE)
    page = doctest.DocTestParser().get_doctest(
        without_fences, {"__name__": "page"}, "python.md", "python.md", 0
    )
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(page)
    assert runner.tries > 30
    assert runner.failures == 0, capsys.readouterr().out


def test_the_model_page_states_the_constants_of_the_code() -> None:
    text = " ".join((DOCS / "model.md").read_text().split())
    for claim, holds in {
        "spread at least .08": likelihoods.SPREAD_FLOOR == 0.08,
        "Beyond a million predicted spreads": likelihoods.TAIL_START == 1e6,
        "floor 1e-4 shared by the classes": likelihoods.CLASS_FLOOR == 1e-4,
        "the 63 most frequent values": columns.MAX_CATEGORIES == 63,
        "fewer than 1 % of training's cells were missing": columns.RARE_MISSING == 0.01,
        "more than 15 % of its entropy": gate.INFORMATIVE == 0.15,
        "over at most 20,000 sampled rows": gate.ROWS[1] == 20_000,
        "fewer than two would be left": gate.LEFT == 2,
        "its stand-in is -1e9 nats": scoring.REFUSED == -1e9,
        "taken over 8 draws": training.Settings().draws == 8,
        "They come in four blocks": noise.BLOCKS == 4,
        "at most 2,000 training records": kernel.MOST_EXEMPLARS == 2000,
        "a tenth of training's": training.Settings().calibration_fraction == 0.1,
        "fewer than 50 records were there to split": records.FEWEST_TO_SPLIT == 50,
        "above their highest tenth": calibration.TAIL_SHARE == 0.1,
        "sines and cosines of its hour, weekday and season": cells.DAY == 86_400_000_000,
    }.items():
        assert claim in text, claim
        assert holds, claim


@pytest.mark.parametrize("name", [*storage.FILES, "manifest.json"])
def test_the_model_page_names_every_file_of_a_model(name: str) -> None:
    assert f"| `{name}` |" in (DOCS / "model.md").read_text()


@pytest.mark.parametrize("kind", columns.KINDS)
def test_the_model_page_tells_of_every_kind_of_column(kind: str) -> None:
    table = [line for line in (DOCS / "model.md").read_text().splitlines() if line.startswith("| ")]
    assert any(re.search(rf"\b{kind}\b", line.split("|")[1]) for line in table)


@pytest.mark.parametrize("name", Scores.__dataclass_fields__)
def test_the_python_page_names_all_that_scoring_returns(name: str) -> None:
    assert f"`{name}`" in (DOCS / "python.md").read_text()
