"""Datasets: units, intervals, keys; a folder appears whole or not at all, once, in flat memory."""

from __future__ import annotations

import datetime
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from vae_core import sources
from vae_core.errors import InputError
from vae_core.sources import parts


def everything(dataset: sources.Dataset) -> pa.Table:
    return pa.Table.from_batches(list(sources.batches(dataset)))


def weather(rows: int = 1000) -> pd.DataFrame:
    noise = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "origin": noise.choice(["EWR", "JFK", "LGA"], rows),
            "time_hour": pd.date_range("2013-01-01", periods=rows, freq="h", tz="UTC"),
            "temp": np.where(noise.random(rows) < 0.1, np.nan, noise.normal(10, 8, rows)),
            "visib": noise.integers(0, 11, rows),
        }
    )


def test_the_interval_is_half_open_and_in_utc(tmp_path: Path) -> None:
    weather(100).to_parquet(tmp_path / "a.parquet")
    dataset = sources.ingest(
        tmp_path / "a.parquet", tmp_path / "store", start="2013-01-02", until="2013-01-03T01:00+01:00"
    )
    times = everything(dataset)["time_hour"].to_pylist()
    assert (times[0], times[-1]) == (
        datetime.datetime(2013, 1, 2, tzinfo=datetime.UTC),
        datetime.datetime(2013, 1, 2, 23, tzinfo=datetime.UTC),
    )
    assert (dataset.rows, dataset.outside, dataset.quarantined) == (24, 76, 0)


def test_repeated_keys_are_found_across_files_and_buckets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "GROUPS_PER_PART", 1)
    monkeypatch.setattr(parts, "rows_per_group", lambda columns: 64)
    monkeypatch.setattr(parts.Keys.later_copies, "__kwdefaults__", {"bucket": 50})
    noise = np.random.default_rng(1)
    frames = [
        pd.DataFrame({"k": noise.integers(0, 400, 150).astype(str), "x": noise.normal(size=150)})
        for _ in "abc"
    ]
    for name, frame in zip("abc", frames, strict=True):
        frame.to_parquet(tmp_path / f"{name}.parquet")
    dataset = sources.ingest(tmp_path, tmp_path / "store", name="keys", ids=["k"])
    whole = pd.concat(frames)
    assert everything(dataset)["x"].to_pylist() == whole.drop_duplicates("k")["x"].tolist()
    assert dataset.quarantined == whole.duplicated("k").sum()
    assert [part.rows for part in dataset.parts[:-1]] == [64] * (len(dataset.parts) - 1)


@pytest.mark.parametrize("ids", [["k"], ["k", "j"]])
@pytest.mark.parametrize("distinct", [1, 3, 149, 150, 290])
def test_a_key_that_most_rows_repeat_is_told_with_its_count(
    ids: list[str], distinct: int, tmp_path: Path
) -> None:
    noise = np.random.default_rng(2)
    k = np.r_[np.arange(distinct), noise.integers(0, distinct, 300 - distinct)]
    frame = pd.DataFrame({"k": k, "j": k % 7, "x": noise.normal(size=300)})
    frame.loc[299, "k"] = None  # a row without its key repeats none
    frame.to_csv(tmp_path / "a.csv", index=False)
    dataset = sources.ingest(tmp_path / "a.csv", tmp_path / "store", ids=ids)
    seen = frame.dropna()[ids].drop_duplicates()
    assert dataset.rows == len(seen) and dataset.quarantined == 300 - len(seen)
    if len(seen) >= 150:  # as many as are repeated, or more
        assert dataset.warnings == ()
        return
    (told,) = dataset.warnings
    values = f"{len(seen)} distinct value{'s' * (len(seen) > 1)} in 299 rows"
    named = 'columns "k", "j" repeat together' if len(ids) > 1 else 'column "k" repeats'
    assert told.startswith(f"{named}: {values} make no key, and {299 - len(seen)} rows are in quarantine")
    assert "leave --id out" in told
    assert sources.ingest(tmp_path / "a.csv", tmp_path / "store", ids=ids).warnings == dataset.warnings


def test_units_hold_each_row_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "GROUPS_PER_PART", 2)
    monkeypatch.setattr(parts, "rows_per_group", lambda columns: 128)
    weather().to_parquet(tmp_path / "a.parquet")
    dataset = sources.ingest(tmp_path / "a.parquet", tmp_path / "store")
    truth = duckdb.sql(f"select * from '{dataset.folder}/part-*.parquet' order by _row").to_arrow_table()
    for size in (1000, 300, 128, 100, 7):
        units = sources.plan(dataset, size)
        assert [unit.id for unit in units] == sorted(unit.id for unit in units)
        assert max(unit.last - unit.first for unit in units) <= size
        table = pa.concat_tables([sources.read(dataset, unit, ["temp", "origin"]) for unit in units])
        assert table.column_names == ["_record_id", "_source", "_row", "temp", "origin"]
        assert table["_row"].to_pylist() == truth["_row"].to_pylist() == list(range(1, 1001))
        assert table["temp"].to_pylist() == truth["temp"].to_pylist()
    batches = list(sources.batches(dataset, columns=["visib"], rows=100))
    assert max(batch.num_rows for batch in batches) <= 100
    assert [value for batch in batches for value in batch.column("visib").to_pylist()] == truth[
        "visib"
    ].to_pylist()


def test_a_unit_is_read_from_its_own_pages_and_a_flipped_bit_is_an_error(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=140_000)
    pq.write_table(pa.table({"x": values}), tmp_path / "a.parquet")
    dataset = sources.ingest(tmp_path / "a.parquet", tmp_path / "store")
    part = dataset.folder / dataset.parts[0].name
    data = bytearray(part.read_bytes())
    place = pq.ParquetFile(part).metadata.row_group(2).column(3).data_page_offset + 2000
    data[place] ^= 1
    part.write_bytes(data)
    first, *_, last = sources.plan(dataset)
    assert sources.read(dataset, first)["x"].to_pylist() == values[:65_536].tolist()
    with pytest.raises(InputError, match="cannot be read"):
        sources.read(dataset, last)


def test_a_column_whose_name_in_a_parquet_file_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"qqqqqqqq": [1.0, 2.0]}), tmp_path / "a.parquet", store_schema=False)
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data.replace(b"qqqqqqqq", b"\xabqqqqqqq"))
    with pytest.raises(InputError, match="is not a complete Parquet file: 'utf-8'"):
        sources.ingest(tmp_path / "a.parquet", tmp_path / "store")


def test_the_same_input_gives_the_same_bytes_and_is_not_read_twice(tmp_path: Path) -> None:
    weather().to_csv(tmp_path / "a.csv", index=False)
    options = {"ids": ["origin", "time_hour"], "until": "2013-01-20"}
    one = sources.ingest(tmp_path / "a.csv", tmp_path / "one", **options)
    two = sources.ingest(tmp_path / "a.csv", tmp_path / "two", **options)
    assert contents(one.folder) == contents(two.folder)
    read: list[int] = []
    again = sources.ingest(tmp_path / "a.csv", tmp_path / "one", **options, progress=read.append)
    assert (again, read) == (one, [])
    assert sources.open_dataset(tmp_path / "one" / "a") == one
    assert (
        sources.ingest(tmp_path / "a.csv", tmp_path / "one", ids=["origin", "time_hour"]).digest != one.digest
    )
    with pytest.raises(InputError, match="holds 2 versions"):
        sources.open_dataset(tmp_path / "one" / "a")


def test_changed_content_of_the_same_size_and_date_is_other_content(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a\n1\n2\n")
    before = path.stat()
    one = sources.ingest(path, tmp_path / "store")
    path.write_text("a\n1\n3\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    two = sources.ingest(path, tmp_path / "store")
    assert (everything(one)["a"].to_pylist(), everything(two)["a"].to_pylist()) == ([1, 2], [1, 3])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


INGEST = """
import sys
from vae_core import sources
sources.ingest(sys.argv[1], sys.argv[2], ids=["origin", "time_hour"])
"""


def test_killed_at_any_moment_it_leaves_nothing_and_the_next_run_completes(tmp_path: Path) -> None:
    weather(60_000).to_csv(tmp_path / "a.csv", index=False)
    whole = sources.ingest(tmp_path / "a.csv", tmp_path / "whole", ids=["origin", "time_hour"])
    store = tmp_path / "store"
    inside = 0
    for delay in (0.0, 0.02, 0.1, 0.3):  # after the staging folder appeared: the first is surely inside
        process = subprocess.Popen([sys.executable, "-c", INGEST, tmp_path / "a.csv", store])
        while process.poll() is None and not list(store.glob("a/.ingest-*")):
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        inside += bool(list(store.glob("a/.ingest-*")))
        assert not sources.is_dataset(store / "a") or contents(sources.open_dataset(store / "a").folder)
    assert inside, "at least one kill landed in the middle"
    again = sources.ingest(tmp_path / "a.csv", store, ids=["origin", "time_hour"])
    assert contents(again.folder) == contents(whole.folder)
    assert [path.name for path in (store / "a").iterdir()] == [again.folder.name]


def ingest_here(path: Path, store: Path) -> str:
    return sources.ingest(path, store, ids=["origin", "time_hour"]).digest


def test_two_processes_at_once_make_one_dataset(tmp_path: Path) -> None:
    weather(20_000).to_csv(tmp_path / "a.csv", index=False)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        digests = pool.starmap(ingest_here, [(tmp_path / "a.csv", tmp_path / "store")] * 4)
    assert len(set(digests)) == 1
    assert len(list((tmp_path / "store" / "a").iterdir())) == 1


FULL = """
import resource, signal, sys
from vae_core import errors, sources
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    sources.ingest(sys.argv[1], sys.argv[2])
except errors.InputError as error:
    print(error)
"""


def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path: Path) -> None:
    weather(60_000).to_csv(tmp_path / "a.csv", index=False)
    command = [sys.executable, "-c", FULL, tmp_path / "a.csv", tmp_path / "store"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "there is no space left" in said
    assert list((tmp_path / "store" / "a").iterdir()) == []


PEAK = """
import re, sys
from vae_core import sources
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak()
dataset = sources.ingest(sys.argv[1], sys.argv[2], ids=["origin", "time_hour"])
for batch in sources.batches(dataset):
    pass
print(peak() - before)
"""


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_memory_is_flat_in_the_number_of_rows(ending: str, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pandas(weather(140_000)), tmp_path / "a.parquet", row_group_size=50_000)
    table = pq.read_table(tmp_path / "a.parquet")
    peaks = []
    for copies in (1, 3):
        folder = tmp_path / str(copies)
        folder.mkdir()
        for copy in range(copies):
            name = pa.array([f"{copy}"] * table.num_rows)
            made = table.set_column(0, "origin", name)
            if ending == "csv":
                pa_csv.write_csv(made, folder / f"{copy}.csv", pa_csv.WriteOptions(quoting_style="none"))
            else:
                pq.write_table(made, folder / f"{copy}.parquet", row_group_size=50_000)
        command = [sys.executable, "-c", PEAK, folder, tmp_path / "store"]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert 0 < peaks[1] < 1.3 * peaks[0], peaks


def test_a_wide_table_has_small_row_groups(tmp_path: Path) -> None:
    pq.write_table(pa.table({f"c{n}": np.arange(2500.0) for n in range(1500)}), tmp_path / "a.parquet")
    dataset = sources.ingest(tmp_path / "a.parquet", tmp_path / "store")
    assert dataset.rows_per_group == 1024
    assert math.prod(sources.read(dataset, sources.plan(dataset, 2000)[0]).shape) == 1024 * 1503


def test_what_is_no_dataset_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a\n1\n")
    dataset = sources.ingest(tmp_path / "a.csv", tmp_path / "store")
    with pytest.raises(InputError, match="is a dataset already"):
        sources.ingest(dataset.folder, tmp_path / "store")
    with pytest.raises(InputError, match='there is no such column; the nearest name here is "a"'):
        sources.read(dataset, sources.plan(dataset)[0], ["A"])
    with pytest.raises(InputError, match="is not a dataset folder"):
        sources.open_dataset(tmp_path)
    (dataset.folder / dataset.parts[0].name).unlink()
    with pytest.raises(InputError, match="is missing or was changed"):
        sources.open_dataset(dataset.folder)
    described = json.loads((dataset.folder / "_dataset.json").read_text())
    (dataset.folder / "_dataset.json").write_text(json.dumps({**described, "format": 99}))
    with pytest.raises(InputError, match="has format 99"):
        sources.open_dataset(dataset.folder)
