"""What commands print says what is true of the numbers beside it."""

from __future__ import annotations

from typing import Any

import pytest

from flows import terminal


def printed(show: Any, result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    terminal.show(result, False, show)
    return " ".join(capsys.readouterr().out.split())


def test_generate_names_the_columns_some_of_whose_categories_are_not_made(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = {"n": 3, "output": "x.csv", "rarer": {"city": 0.28125, "[b]": 1.0}, "distances": []}
    told = "are not generated: city (28.1 % of training's values), [b] (100 % of training's values)"
    assert printed(terminal.generated, result, capsys).endswith(told)
    assert "not generated" not in printed(terminal.generated, result | {"rarer": {}}, capsys)


@pytest.mark.parametrize(
    ("with_p_value", "told"),
    [
        (7, "score 20.3 nats, no p-value (trained on), not flagged"),
        (0, "no p-value (trained on, or nothing held out to compare with), not flagged"),
        (None, "no p-value (trained on, or nothing held out to compare with), not flagged"),
    ],
)
def test_explain_says_why_a_record_has_no_p_value(
    with_p_value: int | None, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = dict.fromkeys(("bound", "elbo", "reconstruction", "kl"), -20.3)
    record = {"record_id": "r1", "rank": 1, "ranked": 9, "flagged": False, "why": None, "reasons": None}
    result = {**record, **figures, "anomaly_score": 20.3, "p_value": None, "with_p_value": with_p_value}
    assert told in printed(terminal.explained, result, capsys)
    assert "p-value 0.04, not flagged" in printed(terminal.explained, result | {"p_value": 0.04}, capsys)


@pytest.mark.parametrize(("shared", "told"), [(1, "1 record id is in"), (1200, "1,200 record ids are in")])
def test_diff_counts_one_record_as_one(shared: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"new": 0, "persisting": 1, "resolved": 0}
    result = {"notes": [], "counts": counts, "shared": shared, "records": [], "output": None}
    assert f"; {told} both reports" in printed(terminal.diff, result, capsys)
