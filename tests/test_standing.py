"""A changed schedule gives no record a second report, and leaves none out without a word."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from flows import dataset_file, listing, scheduled
from flows.dataset_file import DatasetFile
from tests import shop
from vae_core import publishing

MIDNIGHT = datetime(2024, 1, 29, tzinfo=UTC)
Every = Callable[[str], DatasetFile]


@pytest.fixture
def every(in_shop: shop.Shop, tmp_path: Path) -> Every:
    """A dataset file with this length of intervals."""

    def written(length: str) -> DatasetFile:
        path = in_shop.folder / "shop.toml"
        path.write_text(shop.DATASET_FILE.format(output=tmp_path / "out", every=length))
        return dataset_file.read(path)

    return written


def hours(count: int) -> datetime:
    return MIDNIGHT + timedelta(hours=count)


def ranked(folder: Path) -> list[str]:
    """The ids in all reports that count, with repetitions."""
    places = [publishing.current(place) for place in folder.glob("as_of=*")]
    return sorted(pd.concat([pd.read_parquet(place / "report.parquet") for place in places])["record_id"])


def test_a_longer_interval_is_no_report_of_its_first_hours(every: Every, tmp_path: Path) -> None:
    assert scheduled.backfill(every("6h"), MIDNIGHT, hours(12))["published"] == 2
    (row,) = scheduled.backfill(every("1d"), MIDNIGHT, hours(24))["intervals"]
    assert row["outcome"] == "failed"
    assert "report of 2024-01-29 00:00 to 2024-01-29 06:00" in row["problem"]
    assert "one of 2024-01-29 00:00 to 2024-01-30 00:00 is due" in row["problem"]
    assert scheduled.backfill(every("6h"), MIDNIGHT, hours(24))["kept"] == 2
    assert ranked(tmp_path / "out" / "shop") == sorted(shop.sales()["sale"].iloc[28 * 24 : 29 * 24])
    assert scheduled.backfill(every("1d"), MIDNIGHT, hours(24), replace=True)["published"] == 1


def test_hours_of_a_day_that_has_its_report_get_none_of_their_own(every: Every, tmp_path: Path) -> None:
    assert scheduled.backfill(every("1d"), MIDNIGHT, hours(24))["published"] == 1
    told = scheduled.backfill(every("6h"), MIDNIGHT, hours(30))
    assert [row["outcome"] for row in told["intervals"]] == ["failed"] * 4 + ["published"]
    assert (
        "2024-01-29 06:00 to 2024-01-29 12:00 would hold some of its records again"
        in (told["intervals"][1]["problem"])
    )
    assert ranked(tmp_path / "out" / "shop") == sorted(shop.sales()["sale"].iloc[28 * 24 : 29 * 24 + 6])


def test_a_day_gets_no_report_beside_those_of_some_of_its_hours(every: Every, tmp_path: Path) -> None:
    assert scheduled.backfill(every("6h"), hours(6), hours(18))["published"] == 2
    (row,) = scheduled.backfill(every("1d"), MIDNIGHT, hours(24))["intervals"]
    assert "as_of=20240129T060000Z is the report of 2024-01-29 06:00 to 2024-01-29 12:00" in row["problem"]
    assert len(ranked(tmp_path / "out" / "shop")) == 12


def test_a_report_of_all_records_hides_none_that_lies_before_it(every: Every, tmp_path: Path) -> None:
    assert scheduled.backfill(every("1d"), MIDNIGHT, hours(24))["published"] == 1
    aside = tmp_path / "out" / "shop" / "as_of=20240129T050000Z"
    shutil.copytree(tmp_path / "out" / "shop" / "as_of=20240129T000000Z", aside)
    manifest = publishing.read_manifest(aside) | {"as_of": "2024-01-29T05:00:00Z"}
    sealed = {k: v for k, v in manifest.items() if k not in ("sha256", "interval_end")}
    publishing.write_json(aside / publishing.MANIFEST, sealed | {"sha256": publishing.run_hash(sealed)})
    told = scheduled.backfill(every("6h"), hours(6), hours(30))
    assert [row["outcome"] for row in told["intervals"]] == ["failed"] * 3 + ["published"]


def test_half_a_second_later_is_later(every: Every, tmp_path: Path) -> None:
    assert scheduled.backfill(every("6h"), hours(6), hours(12))["published"] == 1
    place = tmp_path / "out" / "shop" / "as_of=20240129T060000Z"
    late = place.with_name("as_of=20240129T060000.500000Z")
    place.rename(late)
    manifest = publishing.read_manifest(late) | {"as_of": "2024-01-29T06:00:00.500000Z"}
    sealed = {k: v for k, v in manifest.items() if k != "sha256"}
    publishing.write_json(late / publishing.MANIFEST, sealed | {"sha256": publishing.run_hash(sealed)})
    assert scheduled.backfill(every("6h"), MIDNIGHT, hours(6))["published"] == 1


def test_a_damaged_report_does_not_keep_other_intervals_waiting(every: Every, tmp_path: Path) -> None:
    assert scheduled.backfill(every("6h"), hours(6), hours(12))["published"] == 1
    (tmp_path / "out" / "shop" / "as_of=20240129T060000Z" / publishing.MANIFEST).write_text("{}")
    told = scheduled.backfill(every("6h"), MIDNIGHT, hours(24))
    assert [row["outcome"] for row in told["intervals"]] == ["published", "failed", "published", "published"]
    listed = listing.listed(str(tmp_path / "out" / "shop"))
    assert [row["as_of"][11:13] for row in listed["reports"]] == ["00", "12", "18"]
    (line,) = listed["damaged"]
    assert "as_of=20240129T060000Z" in line
