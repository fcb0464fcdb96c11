"""What is read is what was written: CSV against Parquet, Python's csv module, and any corruption."""

from __future__ import annotations

import csv
import datetime
import io
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vae_core import sources
from vae_core.errors import InputError
from vae_core.sources.blocks import Entry
from vae_core.sources.csv_reader import CsvReader
from vae_core.sources.files import Source

TIME = st.datetimes(
    datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1), timezones=st.just(datetime.UTC)
)
NO_NUL = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXT = st.text(NO_NUL, min_size=1, max_size=8).filter(
    lambda text: text.strip() and text.strip() not in sources.DEFAULT_NULLS
)
VALUES = {
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "bool": st.booleans(),
    "string": TEXT,
    "timestamp": TIME,
}
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def written(value: object) -> str:
    """A value as text, the way Python and pandas write it."""
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return "" if value is None else str(value) if isinstance(value, str | bool) else repr(value)


def csv_text(table: pa.Table) -> str:
    sink = io.StringIO(newline="")
    writer = csv.writer(sink)
    writer.writerow(table.column_names)
    writer.writerows([[written(value) for value in row.values()] for row in table.to_pylist()])
    return sink.getvalue()


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


@st.composite
def tables(draw: st.DrawFn) -> tuple[pa.Table, dict[str, str]]:
    kinds = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=5))
    rows = draw(st.integers(1, 12))
    columns = {
        f"c{n}": draw(st.lists(st.none() | VALUES[kind], min_size=rows, max_size=rows))
        for n, kind in enumerate(kinds)
    }
    types = {f"c{n}": kind for n, kind in enumerate(kinds)}
    schema = pa.schema([(name, sources.TYPES[kind]) for name, kind in types.items()])
    return pa.table(columns, schema=schema), types


@given(tables())
@QUICK
def test_csv_gives_the_very_values_of_parquet(drawn: tuple[pa.Table, dict[str, str]]) -> None:
    table, types = drawn
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(table, f"{folder}/a.parquet")
        Path(folder, "b.csv").write_text(csv_text(table), encoding="utf-8", newline="")
        one = sources.ingest(f"{folder}/a.parquet", f"{folder}/store", columns=types)
        two = sources.ingest(f"{folder}/b.csv", f"{folder}/store", columns=types)
        assert one.columns == two.columns == types
        assert one.quarantined == two.quarantined == 0
        kept = [row for row in table.to_pylist() if any(value is not None for value in row.values())]
        from_csv = everything(two).drop_columns(list(sources.dataset.LEADING_NAMES))
        assert everything(one).drop_columns(list(sources.dataset.LEADING_NAMES)).equals(table)
        if len(kept) == table.num_rows or len(types) > 1:
            assert from_csv.equals(table)
            assert from_csv.to_pandas().equals(table.to_pandas())


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_nul_byte_in_text_is_quarantined_in_either_format(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"a": range(4), "b": pa.array(["v", "x\0y", None, "\0"]).cast(kind)})
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text(csv_text(table), encoding="utf-8", newline="")
    for name in ("a.parquet", "b.csv"):
        dataset = sources.ingest(tmp_path / name, tmp_path / "store")
        assert everything(dataset)["b"].to_pylist() == ["v", None]
        quarantine = pq.read_table(dataset.folder / "quarantine.parquet").to_pylist()
        assert [(line["row"], line["reason"]) for line in quarantine] == [
            (row, "a NUL byte stands in the text") for row in (2, 4)
        ]


@given(st.data())
@QUICK
def test_types_are_inferred_as_the_values_were(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(VALUES)))
    values = data.draw(st.lists(st.none() | VALUES[kind], min_size=1, max_size=12))
    texts = [written(value) for value in values if value is not None]
    if kind == "string" and any(looks_like_something_else(text) for text in texts):
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = "".join(f"{written_cell(written(value))},x\n" for value in values)
        Path(folder, "a.csv").write_text("a,b\n" + rows, encoding="utf-8", newline="")
        dataset = sources.ingest(f"{folder}/a.csv", f"{folder}/store")
        assert dataset.columns["a"] == (kind if texts else "string")
        assert everything(dataset)["a"].to_pylist() == values


def looks_like_something_else(text: str) -> bool:
    for read in (float, datetime.datetime.fromisoformat):
        try:
            read(text.strip())
        except ValueError:
            continue
        return True
    return text.strip().lower() in ("true", "false")


def written_cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if set(text) & set('",\r\n') else text


@given(
    st.lists(
        st.lists(st.text(st.sampled_from('ab",\n\r é🌦 ')), min_size=2, max_size=2), min_size=1, max_size=12
    ),
    st.integers(1, 60),
)
@QUICK
def test_well_formed_csv_is_read_as_python_reads_it_whatever_the_blocks(
    rows: list[list[str]], block: int
) -> None:
    sink = io.StringIO(newline="")
    csv.writer(sink, quoting=csv.QUOTE_ALL if block % 2 else csv.QUOTE_MINIMAL).writerows([["a", "b"], *rows])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.csv")
        path.write_text(sink.getvalue(), encoding="utf-8", newline="")
        found, broken = all_cells(CsvReader(Source("a.csv", path, "csv"), block_bytes=block + 8))
    assert found == [(number, *row) for number, row in enumerate(rows, start=1)]
    assert broken == []


@given(
    st.integers(0, 7),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n")),
    st.integers(1, 80),
)
@QUICK
def test_a_broken_line_costs_only_itself(place: int, junk: str, block: int) -> None:
    lines = [f'{number},"x{number}, ""y""",z' if number % 2 else f"{number},x,z" for number in range(8)]
    whole = list(csv.reader(lines))
    text = "\n".join(["a,b,c", *lines[:place], junk, *lines[place + 1 :]]) + "\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.csv")
        path.write_text(text, encoding="utf-8", newline="")
        found, broken = all_cells(CsvReader(Source("a.csv", path, "csv"), block_bytes=block))
    others = [row for number, row in enumerate(whole) if number != place]
    kept = [list(row[1:]) for row in found]
    assert [row for row in kept if row in others] == others
    assert len(found) + len(broken) == (8 if junk.strip(" ") else 7)  # a line of spaces is no record


def all_cells(reader: CsvReader) -> tuple[list[tuple[object, ...]], list[Entry]]:
    found: list[tuple[object, ...]] = []
    broken: list[Entry] = []
    for block in reader.blocks(reader.names):
        columns = [column.to_pylist() for column in block.table.columns]
        found += list(zip(block.rows.tolist(), *columns, strict=True))
        broken += block.broken
    return found, broken


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=3)), min_size=1, max_size=6),
    st.sampled_from(["utf-8", "latin-1"]),
)
@QUICK
def test_under_any_corruption_the_counts_add_up_or_the_file_is_refused(
    changes: list[tuple[int, bytes]], encoding: str
) -> None:
    data = bytearray(weather(40).to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC).encode())
    for place, new in changes:
        place %= len(data)
        data[place : place + 1] = new
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.csv").write_bytes(data)
        try:
            dataset = sources.ingest(f"{folder}/a.csv", f"{folder}/store", encoding=encoding)
        except InputError as error:
            assert "a.csv" in str(error)
            return
        rows = everything(dataset)
        quarantine = pq.read_table(dataset.quarantine)
        numbers = rows["_row"].to_pylist() + quarantine["row"].to_pylist()
        assert sorted(numbers) == list(range(1, dataset.sources[0]["records"] + 1))
        assert (rows.num_rows, quarantine.num_rows) == (dataset.rows, dataset.quarantined)


def test_every_arrow_type_becomes_one_of_five(tmp_path: Path) -> None:
    moment = datetime.datetime(2013, 2, 12, 8, tzinfo=datetime.UTC)
    whole = [
        pa.int8(),
        pa.uint8(),
        pa.int16(),
        pa.uint16(),
        pa.int32(),
        pa.uint32(),
        pa.int64(),
        pa.uint64(),
        pa.decimal128(20),
    ]
    real = [pa.float16(), pa.float32(), pa.float64(), pa.decimal128(5, 2)]
    text = [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
    times = [
        pa.timestamp("s"),
        pa.timestamp("ms", "America/New_York"),
        pa.timestamp("us"),
        pa.timestamp("ns", "UTC"),
    ]
    columns = {str(kind): pa.array([7, None]).cast(kind) for kind in whole}
    columns |= {str(kind): pa.array([1.5, None]).cast(kind) for kind in real}
    columns |= {str(kind): pa.array(["a", None]).cast(kind) for kind in text}
    columns |= {str(kind): pa.array([moment, None], pa.timestamp("us", "UTC")).cast(kind) for kind in times}
    columns |= {
        "date32": pa.array([moment.date(), None]),
        "bool": pa.array([True, None]),
        "null": pa.nulls(2),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    row = everything(sources.ingest(tmp_path / "a.parquet", tmp_path / "store")).to_pylist()[0]
    assert {type(row[str(kind)]) for kind in whole} == {int}
    assert {row[str(kind)] for kind in whole} == {7}
    assert {row[str(kind)] for kind in real} == {1.5}
    assert {row[str(kind)] for kind in text} == {"a"}
    assert {row[str(kind)] for kind in times} == {moment}
    assert (row["date32"], row["bool"], row["null"]) == (moment.replace(hour=0), True, None)


@pytest.mark.parametrize("on_schema", ["warn", "stop"])
def test_a_table_that_was_trained_on_holds_nothing_new_for_its_model(tmp_path: Path, on_schema: str) -> None:
    lists = {"v": pa.array([[]] * 3, pa.list_(pa.float32())), "w": [[1], [2], [3]]}
    odd = {"at": pa.array([1, 2, 3], pa.time64("us")), "bytes": [b"a", b"b", b"c"], **lists}
    pq.write_table(pa.table({"x": [1.5, 2.5, 3.5], **odd}), tmp_path / "a.parquet")
    trained = sources.ingest(tmp_path / "a.parquet", tmp_path / "store")
    scored = sources.ingest(
        tmp_path / "a.parquet", tmp_path / "store", columns=trained.columns, on_schema=on_schema
    )
    assert scored.warnings == trained.warnings
    assert len(trained.warnings) == len(odd)


LONG = [pa.uint64(), pa.decimal128(30), pa.dictionary(pa.int8(), pa.uint64())]


@pytest.mark.parametrize("kind", LONG, ids=str)
def test_long_whole_numbers_become_what_csv_makes_of_their_digits(tmp_path: Path, kind: pa.DataType) -> None:
    few, many, key = [2**63, *range(40)], [2**63, 2**64 - 1, *range(30)], [*range(40), 2**63]
    for name, cells in (("few", few), ("many", many), ("key", key), ("small", [1, 2])):
        exact = pa.array(cells, pa.decimal128(30))
        column = exact.cast(pa.uint64()) if kind != exact.type else exact
        column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column
        pq.write_table(pa.table({name: column}), tmp_path / f"{name}.parquet")
        (tmp_path / f"{name}.csv").write_text("\n".join([name, *map(str, cells)]) + "\n")
        ids = [name] * (name == "key")
        parquet, csv = (
            sources.ingest(tmp_path / f"{name}.{ending}", tmp_path / ending, ids=ids)
            for ending in ("parquet", "csv")
        )
        assert everything(parquet)[name].to_pylist() == everything(csv)[name].to_pylist()
        assert (parquet.columns, parquet.quarantined) == (csv.columns, csv.quarantined)


def test_keys_are_the_same_from_csv_and_parquet_and_never_meet(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"a": ["x|y", "x", "007", "\\"], "t": pd.Timestamp("2013-02-12 08:00", tz="UTC"), "n": [1, 2, 3, 4]}
    )
    table.to_parquet(tmp_path / "a.parquet")
    table.to_csv(tmp_path / "b.csv", index=False)
    keys = [
        everything(sources.ingest(tmp_path / name, tmp_path / "store", ids=["a", "t"]))[
            "_record_id"
        ].to_pylist()
        for name in ("a.parquet", "b.csv")
    ]
    ends = "|2013-02-12T08:00:00Z"
    assert keys[0] == keys[1] == [f"x\\|y{ends}", f"x{ends}", f"007{ends}", f"\\\\{ends}"]


def test_without_keys_a_record_is_known_by_its_file_and_row(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.csv").write_text("a\n1\n2\n")
    (tmp_path / "sub" / "a.csv").write_text("a\n3\n")
    dataset = sources.ingest(tmp_path, tmp_path / "store", name="numbers")
    assert everything(dataset)["_record_id"].to_pylist() == ["b.csv#1", "b.csv#2", "sub/a.csv#1"]
    assert dataset.name == "numbers"
    globbed = sources.ingest(f"{tmp_path}/**/*.csv", tmp_path / "other", name="numbers")
    assert globbed.digest == dataset.digest
