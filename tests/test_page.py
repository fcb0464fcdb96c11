"""The report's page: what the Parquet files say, nothing that obeys the data, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import hostile, shop
from tests.stand_in import make_dataset, make_job
from tests.test_cli import run
from vae_core import drift, job
from vae_core.calibration import Calibration
from vae_core.card import card, finite
from vae_core.encoding import TableEncoding
from vae_core.errors import one_line
from vae_core.page import PAGE, build, contents, model_page
from vae_core.page.build import render
from vae_core.page.scores import read_scores
from vae_core.page.strips import Strips
from vae_core.page.wording import nats
from vae_core.publishing import read_manifest
from vae_core.report import Decision, Report, read_report, top


class Document(HTMLParser):
    """A page as a browser reads it: elements with their attributes, and texts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    return job.run(make_job(make_dataset(folder, rows=1500), folder / "out")).folder


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile.report(tmp_path_factory.mktemp("hostile"))


def drawn(folder: Path, **options: Any) -> str:
    return build(folder, read_manifest(folder), **options)


def test_the_page_is_published_with_the_report_and_drawn_again_from_its_folder_alone(report: Path) -> None:
    published = (report / PAGE).read_text(encoding="utf-8")
    assert PAGE in read_manifest(report)["files"]
    assert drawn(report) == published


def test_the_page_shows_the_records_of_the_report_in_their_order(report: Path) -> None:
    page = drawn(report)
    body = page[page.index('<table class="ranking"') :]
    ids = re.findall(r'<th role="rowheader" scope="row"><bdi>(k\d+)</bdi>', body)
    assert ids == [row["record_id"] for row in top(report, 1000)]
    counts = read_manifest(report)["counts"]
    flags = len(re.findall(r" data-flagged>", body))
    assert flags == min(counts["flagged"], 1000)
    figures = dict(re.findall(r"<dt>([^<]+)</dt><dd>([\d,]+)</dd>", page))
    assert figures["Records ranked"] == "1,500" and figures["Flagged"] == str(counts["flagged"])


def test_nothing_in_the_page_comes_from_elsewhere(report: Path) -> None:
    document = Document(drawn(report))
    policy = next(m["content"] for m in document.all("meta") if "http-equiv" in m)
    assert policy is not None and policy.startswith("default-src 'none'")
    page = drawn(report)
    for tag in ("style", "script"):
        content = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert len(content) == 1
        digest = base64.b64encode(hashlib.sha256(content[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    for _, attributes in document.elements:
        for name in ("src", "href", "action", "srcset", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png"))
        assert "style" not in attributes  # the policy would forbid it


def test_hostile_texts_are_shown_and_not_obeyed(strange: Path) -> None:
    page = build(strange, hostile.with_card(strange))
    document = Document(page)
    assert len(document.all("script")) == 1 and not document.all("img") and not document.all("b")
    wrong = [a for _, attributes in document.elements for a in attributes if a.startswith("on")]
    assert wrong == []
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", page)
    whole = "".join(document.texts)
    for text in hostile.TEXTS:
        assert one_line(text) in whole  # as it is, but for control characters, which become visible
    assert "49" not in re.findall(r"\{\{.*?\}\}|\b49\b", whole)  # no template inside the template


def test_hidden_values_leave_keys_columns_and_nats(strange: Path, report: Path) -> None:
    shown, hidden = drawn(strange), drawn(strange, hide_values=True)
    assert "secret" in shown and "secret" not in hidden
    assert "0#&lt;script&gt;" in hidden and "nats" in hidden
    assert "[click]" in hidden  # a column's name
    assert Document(hidden).all("svg")  # of scores


def test_hidden_values_hide_what_has_drifted_too(strange: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(strange, tmp_path / "report")
    before = pa.table({"town": ["secret"] * 200, "x": np.linspace(0, 1, 200)})
    encoding = TableEncoding.fit(before.to_batches(), kinds={"town": "category"})
    own = drift.profile_of(SimpleNamespace(encoding=encoding, calibration=Calibration()))
    assert own is not None
    pq.write_table(drift.table(own, own.count(before, None)), folder / drift.DRIFT)
    manifest = read_manifest(folder) | {"drift": {"verdict": "stable"}}
    assert "secret" in build(folder, manifest)
    assert "secret" not in build(folder, manifest, hide_values=True)


def test_a_report_of_before_the_model_card_is_drawn_without_it(strange: Path, tmp_path: Path) -> None:
    manifest = hostile.with_card(strange)
    with_card = build(strange, manifest)
    (strange / "_card.json").unlink()
    without = build(strange, manifest)
    assert 'id="model"' in with_card and 'id="model"' not in without
    assert 'class="ranking"' in without


def test_what_is_charged_for_the_whole_record_has_a_row_and_the_column_adds_up(
    in_shop: Any, tmp_path: Path
) -> None:
    assert run(*shop.SCORE, "--output", tmp_path) == 0
    folder = read_report(next(tmp_path.glob("sales/*"))).folder
    page, record = drawn(folder), top(folder, 1)[0]
    assert "What is charged for being far out as a whole is for no column" in page
    first = page[page.index("<tfoot") : page.index("</tfoot>")]
    below = sum(reason["nats"] - reason["typical"] for reason in record["reasons"])
    usual = record["bound"] - below - record["tilt_nats"]
    told = [nats(usual), nats(record["tilt_nats"]), nats(record["bound"])]
    assert re.findall(r'class="n">([^<]+)</td>', first) == told
    assert record["tilt_nats"] < -100


def test_a_report_of_before_the_charge_had_a_column_is_drawn(report: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(report, old)
    table = pq.read_table(report / "report.parquet").drop_columns(["tilt_nats"])
    pq.write_table(table, old / "report.parquet")
    page = build(old, read_manifest(report))
    assert "charged" not in page and ">the rest</th>" in page and "sum: the bound" in page


def test_what_argues_for_a_record_is_drawn_to_the_other_side(report: Path) -> None:
    first = top(report, 1)[0]
    told = [first["reasons"][0] | {"nats": below, "typical": 0.0} for below in (0.9, -9.0)]
    drawing = Strips([])
    record = contents._record(first | {"reasons": told}, True, drawing, {}, hide_values=False)
    assert re.findall(r"<rect[^>]*>", render({"record": record}, "record.html")) == [
        '<rect class="for" x="44" width="5.0" height="8"/>',
        '<rect x="0.0" width="44.0" height="8"/>',
    ]


def test_records_of_any_width_make_a_page_of_less_than_3_mb(tmp_path: Path, report: Path) -> None:
    table = pq.read_table(report / "report.parquet").slice(0, 400)
    for name in ("record_id", "why", "source"):
        long = pa.array(["<&" * 500 for _ in range(table.num_rows)])
        table = table.set_column(table.schema.get_field_index(name), name, long)
    entry = {
        "feature": "<" * 999,
        "value": "<" * 999,
        "expected": "<" * 999,
        "low": "<" * 99,
        "high": "&" * 99,
    }
    wide = [{**entry, "value_number": 1.0, "nats": -9.0, "typical": -1.0}] * 40
    reasons = pa.array([wide] * table.num_rows, table.schema.field("reasons").type)
    table = table.set_column(table.schema.get_field_index("reasons"), "reasons", reasons)
    pq.write_table(table, tmp_path / "report.parquet")
    assert 100_000 < len(build(tmp_path, read_manifest(report)).encode()) < 3_000_000


def test_what_is_new_is_told_when_drawn_anew_and_hidden_values_stay_hidden(
    strange: Path, report: Path, tmp_path: Path
) -> None:
    """The published page knows nothing of what lies beside it; texts of the other report are texts."""
    manifest = hostile.with_card(strange)
    assert 'id="changes"' not in build(strange, manifest)
    earlier = Report(report, read_manifest(report))
    page = build(strange, manifest, earlier=earlier)
    body = page[page.index('<section id="changes"') : page.index('<section id="ranking"')]
    ours, theirs = (pq.read_table(folder / "report.parquet").to_pandas() for folder in (strange, report))
    counts = {"new": ours["flagged"].sum(), "persisting": 0, "resolved": theirs["flagged"].sum()}
    assert dict(re.findall(r"<strong>([\d,]+) (\w+)</strong>", body)) == {
        str(n): s for s, n in counts.items()
    }
    assert "no record id is in both reports" in body and "&lt;script&gt;" in body
    assert len(Document(page).all("script")) == 1
    hidden = build(strange, manifest, earlier=earlier, hide_values=True)
    assert 'id="changes"' in hidden and "secret" not in hidden


def test_an_empty_interval_has_a_page(tmp_path: Path, report: Path) -> None:
    pq.write_table(pq.read_table(report / "report.parquet").slice(0, 0), tmp_path / "report.parquet")
    manifest = read_manifest(report)
    manifest["counts"] = dict.fromkeys(manifest["counts"], 0)
    assert "There is no record in this interval" in build(tmp_path, manifest)


def test_a_report_of_one_record_has_a_page_that_speaks_of_one(tmp_path: Path) -> None:
    folder = job.run(make_job(make_dataset(tmp_path, rows=1, files=1), tmp_path / "out")).folder
    page = drawn(folder)
    assert "The first one opens to its reasons." in page
    chart = page[page.index('aria-label="Of the records 100.0% have a p-value up to 0.05') :].split("</svg>")[
        0
    ]
    assert re.findall(r">([\d.]+)</text>", chart) == ["0.1", "0.1", "1", "1"]
    lines = [re.findall(r"[\d.]+", points) for points in re.findall(r'points="([^"]+)"', chart)]
    assert [len(set(points)) > 2 for points in lines] == [True, True]  # the diagonal, and a curve to see


def test_the_distributions_count_every_record(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, rows=1500)
    folder = job.run(make_job(data, tmp_path / "out", decision=Decision(alpha=0.01))).folder
    table = pq.read_table(folder / "report.parquet").to_pandas()
    normal = np.random.default_rng(0).normal(size=4000) ** 2 / 2
    quantiles = np.quantile(normal, np.linspace(0, 1, 101))
    ranks = np.array([1, 2, 5, 20, 100, 400])
    curve = [[float(np.sort(normal)[-k]), k / 4000, k / 4000] for k in ranks]
    scores = read_scores(folder / "report.parquet", {"quantiles": quantiles, "curve": curve})
    assert scores is not None and scores.training is not None
    assert scores.counts.sum() == 1500
    assert scores.threshold == table.loc[table["flagged"], "anomaly_score"].min()
    five = np.interp(0.05, 10 ** np.linspace(-4, 0, 33), scores.p_counts / scores.with_p_value)
    assert five == pytest.approx((table["p_value"] <= 0.05).sum() / table["p_value"].notna().sum(), abs=0.01)
    real = np.histogram(scores.scale(normal), scores.edges)[0] / 4000
    assert np.abs(np.cumsum(scores.training) - np.cumsum(real)).max() < 0.012


def test_a_value_outside_the_training_range_is_an_arrow_and_says_so() -> None:
    column = {"name": "wind", "type": "double", "kind": "real", "rows": 9, "missing": 0}
    strips = Strips([{**column, "quantiles": [0.0, 10.0, 40.0]}])
    reason = {"feature": "wind", "value": "1048", "low": "8", "high": "10", "value_number": 1048.0}
    above = str(strips.draw(reason))
    assert "above all" in above and 'class="arrow"' in above and 'class="band"' in above
    assert 'class="mark"' in str(strips.draw({**reason, "value_number": 9.0}))
    assert strips.draw({**reason, "feature": "unknown"}) is None
    assert str(strips.symbols()).count("<symbol") == 1


@pytest.mark.parametrize("ends", [(-1.7e308, 1.7e308), (0.0, 5e-324), (1.0, 1.0)])
def test_a_range_that_no_picture_can_hold_has_none(ends: tuple[float, float]) -> None:
    column = {"name": "x", "type": "double", "kind": "real", "rows": 9, "missing": 0}
    strips = Strips([{**column, "quantiles": [ends[0], 0.5 * ends[0] + 0.5 * ends[1], ends[1]]}])
    assert strips.draw({"feature": "x", "value": "0", "low": None, "high": None, "value_number": 0.0}) is None


def test_a_model_card_is_json_and_names_every_column(in_shop: Any) -> None:
    from flows import registry
    from vae_core import storage

    model = storage.load(registry.resolve("models:/shop@champion").folder)
    told = json.loads(json.dumps(finite(card(model)), allow_nan=False))
    assert {column["name"] for column in told["columns"]} == set(model.encoding.columns)
    assert told["summary"]["rows"]["fit"] > 0 and told["scores"]["records"] == len(model.calibration.scores)
    assert sum(told["members"].values()) == pytest.approx(1)


def test_a_model_card_is_a_page_of_its_own_and_escapes_too(strange: Path) -> None:
    hostile.with_card(strange)
    told = json.loads((strange / "_card.json").read_text())
    (strange / "_card.json").unlink()
    document = Document(model_page(told, name=hostile.TEXTS[0], sha256="ab"))
    assert not document.all("script") and not document.all("img")
    whole = "".join(document.texts)
    assert "Held-out" not in whole and one_line(hostile.TEXTS[1]) in whole
    assert len(document.all("svg")) == 1  # calibration; there is no history
