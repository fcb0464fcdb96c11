"""Sentences on the page: names that read from right to left, and long ones."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tests.stand_in import StandIn, make_dataset, make_job
from vae_core import explanation, job
from vae_core.drift.counts import SCORE
from vae_core.page import PAGE, wording
from vae_core.page.sentences import delicate, sentence
from vae_core.report import top
from vae_core.sources.blocks import OF_REPORTS
from vae_core.work import REASONS

HEBREW, ARABIC, LONG = "שלום", "درجة الحرارة", "temperature_" * 25 + "end"


def reason(feature: str, value: str, nats: float = -4567.0) -> dict[str, object]:
    figures = {"expected": "2.3", "low": "1.1", "high": "3.5", "value_number": 102.0}
    return {"feature": feature, "value": value, **figures, "nats": nats, "typical": 0.0}


REASONS_TOLD = [reason(HEBREW, "102"), reason(ARABIC, "غرفة 7 b", -900.0), reason(LONG, "9", -800.0)]


def explain(model: StandIn, table: pa.Table, *, top: int) -> pa.Table:
    """The same three reasons for every record, in the sentence that all models make of reasons."""
    why = explanation.sentence({name: [own[name] for own in REASONS_TOLD] for name in REASONS_TOLD[0]})
    rows = table.num_rows
    reasons = pa.array([REASONS_TOLD] * rows, REASONS)
    return pa.table(
        {"why": [why] * rows, "reasons": reasons, "rest_nats": [1.0] * rows, "tilt_nats": [0.0] * rows}
    )


def report_from_the_right(folder: Path) -> Path:
    return job.run(make_job(make_dataset(folder, rows=60), folder / "out", explain=explain)).folder


def test_names_and_values_from_the_right_are_isolated_on_the_page_and_plain_in_the_report(
    tmp_path: Path,
) -> None:
    folder = report_from_the_right(tmp_path)
    page = (folder / PAGE).read_text(encoding="utf-8")
    assert f"<bdi><bdi>{HEBREW}</bdi> 102, expected 2.3 (1.1 to 3.5): -4,567 nats; " in page
    assert f"; <bdi>{ARABIC}</bdi> <bdi>غرفة 7 b</bdi>, expected 2.3 (1.1 to 3.5): -900 nats; " in page
    why = top(folder, 1)[0]["why"]
    assert why.startswith(f"{HEBREW} 102, expected 2.3 (1.1 to 3.5): -4,567 nats; {ARABIC} غرفة 7 b, ")


def test_a_long_name_is_cut_in_its_middle_and_the_nats_stay(tmp_path: Path) -> None:
    page = (report_from_the_right(tmp_path) / PAGE).read_text(encoding="utf-8")
    assert "temperature_end 9, expected 2.3 (1.1 to 3.5): -800 nats</bdi>" in page
    assert f'title="{LONG}"' in page


@pytest.mark.parametrize("names", [(), ("b", "no such name")])
def test_a_sentence_of_plain_names_is_what_it_was(names: tuple[str, ...]) -> None:
    text = "a <b> 7, expected 2 (1 to 3): -9 nats"
    assert sentence(text, 99, names) == "a &lt;b&gt; 7, expected 2 (1 to 3): -9 nats"
    assert sentence(text, 8, names) == "a &lt;b&gt; 7…"
    assert delicate([reason("a", "<b>")]) == []


def test_what_reports_name_beside_columns_is_no_columns_name() -> None:
    """So that a reason, or a row of the drift table, is known by its name."""
    assert {explanation.COMBINATION, wording.COMBINATION, SCORE} == set(OF_REPORTS)
