"""Few records: what cannot be flagged is said, and a single record is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flows.cli import main
from tests.conftest import SERVICES
from vae_core.calibration import Calibration
from vae_core.card import nothing_flagged, without_flags

TENTH = {"calibration_fraction": 0.1}


def write(path: Path, rows: int) -> None:
    """A table with a key, as `path`."""
    r = np.random.default_rng(0)
    keys = [f"c{n:03d}" for n in range(rows)]
    pd.DataFrame({"cust": keys, "amount": r.gamma(2, 30, rows).round(2), "items": r.poisson(3, rows)}).to_csv(
        path, index=False
    )


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in SERVICES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_model_without_held_out_records_says_that_nothing_can_be_flagged(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(in_folder / "few.csv", 20)
    write(in_folder / "new.csv", 40)
    train = ["train", "few.csv", "--name", "few", "--id", "cust", "--steps", "20"]
    assert main(train) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "training ELBO" in told and "held-out" not in told
    assert "no p-values" in told and "Use --top-k, or train on 190 records or more." in told
    assert 'Left out: column "cust" (the key)' in told and "set apart" not in told
    score = ["score", "new.csv", "--model", "models:/few@champion"]
    assert main([*score, "--alpha", "0.05", "--output", "alpha"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "no p-values" in told and "nothing can be flagged by --alpha 0.05" in told
    assert "cust" not in told  # neither a reason nor drift
    (page,) = (in_folder / "alpha").rglob("report.html")
    assert main(["report", str(page.parent)]) == 0
    assert "nothing can be flagged by --alpha 0.05" in " ".join(capsys.readouterr().out.split())
    told = page.read_text(encoding="utf-8")
    assert "<strong>The model has no p-values" in told
    assert "nothing can be flagged by --alpha 0.05. Use --top-k" in told
    assert main([*score, "--top-k", "3", "--output", "top", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["flagged"] == 3 and result["warnings"] == []
    generate = ["generate", "--model", "models:/few@champion", "--n", "1", "--output", "made.csv"]
    assert main(generate) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith("1 record in made.csv") and "30 records of each: not measured" in told
    assert "AUROC" not in told
    assert main(["models", "show", "few"]) == 0
    assert "Training ELBO" in capsys.readouterr().out
    assert main(["models", "list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["models"]
    assert listed["rows"] == 20 and listed["heldout_elbo"] is None
    assert main(["models", "list"]) == 0  # nothing stands under "held-out ELBO"
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["few", "1", "champion", "20"]


@pytest.mark.parametrize("held_out", [1, 5, 18, 19, 20, 60])
@pytest.mark.parametrize("level", [0.02, 0.05, 0.3])
def test_what_is_warned_of_is_what_no_score_can_reach(held_out: int, level: float) -> None:
    known = Calibration.fit(np.arange(held_out, dtype=float), {})
    smallest = known.p_values(np.array([1e9]))[0]
    warned = nothing_flagged((held_out, False), {"alpha": level}, TENTH)
    assert bool(warned) == (smallest > level)


def test_the_number_of_records_that_is_told_is_enough() -> None:
    (told,) = nothing_flagged((0, False), {"fdr": 0.05}, TENTH)
    assert "190 records" in told
    assert not nothing_flagged((int(0.1 * 190), False), {"fdr": 0.05}, TENTH)
    assert nothing_flagged((int(0.1 * 189), False), {"fdr": 0.05}, TENTH)


CARD = {"scores": {"records": 300, "tail_from": 9.0}, "settings": TENTH}


@pytest.mark.parametrize(
    ("known", "told"),
    [
        (0, []),
        (1, ["1 of 1,200 records has no p-value, since the model was trained on it"]),
        (1_200, ["1,200 of 1,200 records have no p-value, since the model was trained on them"]),
    ],
)
def test_records_that_were_trained_on_are_counted_where_they_cannot_be_flagged(
    known: int, told: list[str]
) -> None:
    counts = {"ranked": 1_200, "with_p_value": 1_200 - known}
    said = without_flags(CARD, {"counts": counts, "decision": {"fdr": 0.05}})
    assert said == [f"{line}: ranked like others, but never flagged by --fdr 0.05." for line in told]
    assert without_flags(CARD, {"counts": counts, "decision": {"top_k": 5}}) == []
    assert without_flags(CARD, {"counts": {"ranked": 1_200}, "decision": {"fdr": 0.05}}) == []  # of before


def test_members_that_have_no_p_values_together_are_named() -> None:
    manifest = {
        "counts": {"ranked": 9, "with_p_value": 0},
        "decision": {"alpha": 0.01},
        "settings": {"members": ["vae", "crowd"]},
    }
    (told,) = without_flags({"scores": None, "settings": TENTH}, manifest)
    assert told.startswith(
        "the members vae and crowd have no p-values together: nothing can be flagged by --alpha 0.01."
    )
