"""docs/input.md is kept true: each row of its table is an input that is made here and given to `ingest`."""

from __future__ import annotations

import datetime
import gzip
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vae_core import sources
from vae_core.errors import InputError
from vae_core.sources import csv_lines

PAGE = Path(__file__).parent.parent / "docs" / "input.md"
Files = dict[str, bytes]
Case = tuple[Files, dict[str, Any], Callable[[pd.DataFrame], object] | None]


def parquet(**columns: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(
        pa.table(columns), sink, write_page_checksum=True, compression="none", use_dictionary=False
    )
    return sink.getvalue()


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def csv(text: str) -> Files:
    return {"a.csv": text.encode()}


def case(files: Files, check: Callable[[pd.DataFrame], object] | None = None, **options: Any) -> Case:
    return files, options, check


def text_that_is_no_utf_8() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"x": ["abcd", "wxyz"]}), sink, compression="none", use_dictionary=False)
    return sink.getvalue().replace(b"wxyz", b"wx\xff\xfe")


NUMBERS = "".join(f"{n},{n / 8}\n" for n in range(30))
TEMP = {"temp": "double"}
FLOATS = parquet(x=[1.5, 2.5])
DAY = datetime.timedelta(1)
BYTES = parquet(x=pa.array([b"\xff"], pa.binary()), y=[1.0], u=[[1]], v=[{"w": 1}], w=pa.array([DAY]))
NO_LISTS = pa.array([[]], pa.list_(pa.float32()))
TWO_TIMES = "t,u\n2013-01-01,2013-01-02\n"
EMOJI = {"wetter 🌦 ../a.csv": "größe 🌡,a/../b\n1.5,2\n".encode()}

CASES: dict[str, Case] = {
    "an empty file": case({"a.csv": b""}),
    "a header and no rows": case(csv("a,b\n")),
    "only blank lines": case(csv("\n\n\n")),
    "one file of several without rows": case({"a.csv": b"a\n1\n", "b.csv": b"a\n"}),
    "a folder without data files": case({"ABOUT.md": b"text"}),
    "a path that does not exist": case({}, path="nowhere"),
    "a hidden file and one that begins with `_`": case(
        {"a.csv": b"a\n1\n", ".b.csv": b"junk,\n", "_c.csv": b"junk,\n", "_d/e.csv": b"junk,\n"},
        lambda rows: rows["_source"].tolist() == ["a.csv"],
    ),
    "a folder that holds its own datasets, or reports": case(
        {
            "a.csv": b"a\n1\n",
            "b/_dataset.json": b"{}",
            "b/part.csv": b"x",
            "c/_manifest.json": b"{}",
            "c/r.csv": b"x",
        },
        lambda rows: rows["_source"].tolist() == ["a.csv"],
    ),
    "a file that is neither Parquet nor CSV by its name": case({"a.xlsx": b"PK"}, path="a.xlsx"),
    "Parquet and CSV files in one folder": case({"a.csv": b"a\n1\n", "b.parquet": FLOATS}),
    "a truncated Parquet file": case({"a.parquet": FLOATS[:-20]}),
    "CSV under the name of Parquet": case({"a.parquet": b"a,b\n1,2\n"}),
    "Parquet under the name of CSV": case({"a.csv": FLOATS}),
    "an Excel file under the name of CSV": case({"a.csv": b"PK\x03\x04rest"}),
    "a Parquet file with a flipped byte (and page checksums)": case(
        {"a.parquet": flipped(FLOATS, FLOATS.index(pa.array([1.5, 2.5]).buffers()[1].to_pybytes()[:16]))}
    ),
    "Parquet text that is not UTF-8": case({"a.parquet": text_that_is_no_utf_8()}),
    "a damaged gzip file": case({"a.csv.gz": gzip.compress(b"a\n" + b"1\n" * 9000, mtime=0)[:-12]}),
    "files whose columns differ": case({"a.csv": b"a,b\n1,2\n", "b.csv": b"a,c\n1,2\n"}),
    "files whose columns stand in another order": case(
        {"a.csv": b"a,b\n1,2\n", "b.csv": b"b,a\n4,3\n"}, lambda rows: rows["a"].tolist() == [1, 3]
    ),
    "Parquet files with text here and numbers there": case(
        {"a.parquet": parquet(x=["one"]), "b.parquet": parquet(x=[1.0])}
    ),
    "Parquet files with whole numbers here and reals there": case(
        {"a.parquet": parquet(x=[1]), "b.parquet": parquet(x=[2.5])},
        lambda rows: rows["x"].tolist() == [1.0, 2.5],
    ),
    "a column that the model needs is missing": case(csv("hour\n1\n"), columns=TEMP),
    "a column that the model needs is renamed": case(csv("hour,temperature\n1,2\n"), columns=TEMP),
    "a column with another type than the model's": case({"a.parquet": parquet(temp=[True])}, columns=TEMP),
    "a column that is new to the model": case(
        csv("temp,extra\n1,2\n"), lambda rows: "extra" not in rows.columns, columns=TEMP
    ),
    "a column of another kind than the six, with `--on-schema stop`": case(
        {"a.parquet": parquet(temp=[1.5], at=pa.array([1], pa.time64("us")), v=NO_LISTS)},
        columns=TEMP,
        on_schema="stop",
    ),
    "a column that is new to the model, with `--on-schema stop`": case(
        csv("temp,extra\n1,2\n"), columns=TEMP, on_schema="stop"
    ),
    "a key column that is not there": case(csv("a\n1\n"), ids=["b"]),
    "text in a column of numbers": case(csv("a,b\nabc,0\n" + NUMBERS)),
    "hexadecimal text in a column of numbers": case(csv("a,b\n0x1F,0\n" + NUMBERS)),
    "numbers with decimal commas": case(csv("a;b\n" + "1,5;2\n" * 20), delimiter=";"),
    "decimal commas where the model has numbers": case(
        csv("a;b\n" + "1,5;2\n" * 20), delimiter=";", columns={"a": "double", "b": "int64"}
    ),
    "text with commas, a few of them not decimal": case(
        csv("a;b\n" + "1,5;2\n" * 20 + "red, blue;3\n" * 3),
        lambda rows: rows["a"].tolist()[-1] == "red, blue",
        delimiter=";",
    ),
    "semicolons between columns, and a comma in a column's name": case(csv("id;size, cm;ok\n1;2;3\n")),
    "the type of one of two columns, with `--type`": case(
        csv("a,b\n1,2\n"),
        lambda rows: rows["a"].tolist() == ["1"] and rows["b"].tolist() == [2],
        types={"a": "string"},
    ),
    "a fraction where the model has whole numbers": case(
        csv("a\n12.0\n12.5\n"), lambda rows: rows["a"].tolist() == [12], columns={"a": "int64"}
    ),
    "another word in the model's column of truth values": case(
        csv("a\nTRUE\nmaybe\n0\n"), lambda rows: rows["a"].tolist() == [True, False], columns={"a": "bool"}
    ),
    "a date that does not exist": case(csv("t\n2013-02-30\n" + "2013-02-28\n" * 30)),
    "a time before the year 1": case(csv("t\n0000-01-01\n" + "2013-02-28\n" * 30)),
    "NaN in a column of reals": case(
        {"a.parquet": parquet(x=[float("nan"), 1.0])}, lambda rows: rows["x"].isna()[0]
    ),
    "infinity, or a number too large for a double": case(csv("a,b\n1e999,0\n" + NUMBERS)),
    "`NA` as a key": case(
        csv("k,x\nNA,1\nUS,2\n"), lambda rows: rows["k"].tolist() == ["NA", "US"], ids=["k"]
    ),
    "a record without its key": case(csv("k,x\n,1\nUS,2\n"), ids=["k"]),
    "records with the same key": case(
        csv("k,x\nUS,1\nUS,2\n"), lambda rows: rows["x"].tolist() == [1], ids=["k"]
    ),
    "two columns with one name": case(csv("a,a\n1,2\n")),
    "a column without a name": case(csv(",a\n0,1\n")),
    "a header without any name": case(csv(",,\n1,2,3\n")),
    "a header whose quote is not closed": case(csv('a,"b\n1,2\n')),
    "a column with a name that datasets use": case(csv("_row\n1\n")),
    "a column with a name that reports use": case(csv("(anomaly score)\n1\n")),
    "the whole number 2^53 + 1": case(
        csv("a\n9007199254740993\n"), lambda rows: rows["a"].tolist() == [2**53 + 1]
    ),
    "a whole number beyond 64 bits": case(csv("a,b\n9223372036854775808,0\n" + NUMBERS)),
    "unsigned numbers of a Parquet file, many of them beyond 64 bits with a sign": case(
        {"a.parquet": parquet(x=pa.array([7, 2**63, 2**64 - 1], pa.uint64()))},
        lambda rows: rows["x"].tolist() == ["7", "9223372036854775808", "18446744073709551615"],
    ),
    "unsigned numbers of a Parquet file, a few of them beyond": case(
        {"a.parquet": parquet(x=pa.array([2**63, *range(30)], pa.uint64()))}
    ),
    "a byte-order mark of UTF-8": case(
        {"a.csv": b"\xef\xbb\xbfa\n1\n"}, lambda rows: rows.columns[-1] == "a"
    ),
    "a byte-order mark of UTF-16": case({"a.csv": "a\n1\n".encode("utf-16")}),
    "UTF-16 text with `--encoding utf-16`": case(
        {"a.csv": "a\nö\n".encode("utf-16")}, lambda rows: rows["a"].tolist() == ["ö"], encoding="utf-16"
    ),
    "latin-1 text": case({"a.csv": "a,b\nx,1\ncaf\u00e9s,2\n".encode("latin-1")}),
    "latin-1 text with `--encoding latin-1`": case(
        {"a.csv": "a\ncafé\n".encode("latin-1")},
        lambda rows: rows["a"].tolist() == ["café"],
        encoding="latin-1",
    ),
    "an encoding that does not exist": case(csv("a\n1\n"), encoding="klingon"),
    "a row that is too short": case(csv("a,b\n1\n1,2\n")),
    "a row that is too long": case(csv("a,b\n1,2,3\n1,2\n")),
    "a quote that is not closed": case(
        csv('a,b\n1,"x\n2,y\n3,"z"\n'), lambda rows: rows["b"].tolist() == ["y", "z"]
    ),
    "text after a closed quote": case(csv('a,b\n1,"x"y\n2,z\n'), lambda rows: rows["b"].tolist() == ["z"]),
    "a NUL byte in a row": case(
        csv('a,b\n1,x\0y\n2,"z\n"\n3,"\0\nw"\n4,v\n'), lambda rows: rows["a"].tolist() == [2, 4]
    ),
    "a NUL byte in text of a Parquet file": case(
        {"a.parquet": parquet(a=["v", "x\0y", None])}, lambda rows: rows["a"].tolist()[0] == "v"
    ),
    "NUL bytes in the header": case({"a.csv": "a,b\n1,x\n".encode("utf-16-le")}),
    "a line break within quotes": case(
        csv('a,b\n1,"x\r\ny"\n2,z\n'), lambda rows: rows["b"].tolist() == ["x\r\ny", "z"]
    ),
    "blank lines": case(csv("\na\n\n1\n\n\n2\n\n"), lambda rows: rows["_row"].tolist() == [1, 2]),
    "columns separated by semicolons": case(csv("a;b\n1;2\n")),
    'columns separated by semicolons, with `--delimiter ";"`': case(
        csv("a;b\n1;2\n"), lambda rows: rows["b"].tolist() == [2], delimiter=";"
    ),
    "a dataset's name with `..` and `/`": case(csv("a\n1\n"), name="../elsewhere"),
    "emoji in the names of files and columns": case(
        EMOJI, lambda rows: rows.columns[-2:].tolist() == ["größe 🌡", "a/../b"] and "🌦" in rows["_source"][0]
    ),
    "a column of lists of real numbers, all of one length": case(
        {"a.parquet": parquet(a=[[1.0, 2.0], [3.0, 4.5]])}, lambda rows: rows["a"][1].tolist() == [3.0, 4.5]
    ),
    "a list of another length, in a column of vectors": case(
        {"a.parquet": parquet(a=[[1.0, 2.0], [3.0, 4.5], [5.0]])}
    ),
    "a vector with a number that is missing": case({"a.parquet": parquet(a=[[1.0, 2.0], [3.0, None]])}),
    "a column of vectors, named as a key": case({"a.parquet": parquet(a=[[1.0, 2.0]])}, ids=["a"]),
    "a column of other lists, records, bytes or durations": case(
        {"a.parquet": BYTES}, lambda rows: list(rows.columns[3:]) == ["y"]
    ),
    "such a column, named as a key": case({"a.parquet": BYTES}, ids=["x"]),
    "pandas' row index as a column": case({"a.parquet": parquet(a=[1.0], __index_level_0__=[7])}),
    "a store that cannot be written": case(csv("a\n1\n"), store="/proc/store"),
    "an interval without any row": case(csv("t\n2013-01-01\n2013-01-02\n"), start="2014-01-01"),
    "an interval, and no time column": case(csv("a\n1\n"), until="2014-01-01"),
    "an interval, and several time columns": case(csv(TWO_TIMES), until="2014-01-01"),
    "a record without its time, and an interval": case(csv("t,a\n2013-01-01,1\n,2\n"), until="2014-01-01"),
    "not one good row": case(csv("a\nx\ny\n"), columns={"a": "double"}),
}


def rows_of_the_table() -> list[list[str]]:
    lines = PAGE.read_text(encoding="utf-8").split("## Each case")[1].splitlines()
    table = [line for line in lines if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def happened(files: Files, options: dict[str, Any], folder: Path) -> tuple[str, str, pd.DataFrame]:
    """What ingest does with these files: the word of the table, what it says, and the rows that it keeps."""
    raw = folder / "raw"
    raw.mkdir()
    for name, data in files.items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(data)
    options = dict(options)
    path, store = raw / options.pop("path", "."), options.pop("store", folder / "store")
    try:
        dataset = sources.ingest(path, store, **options)
    except InputError as error:
        assert "\n" not in str(error)
        assert not list(folder.glob("store/*/*")), "what is refused leaves nothing behind"
        return "refused", str(error), pd.DataFrame()
    rows = pd.concat([batch.to_pandas() for batch in sources.batches(dataset)])
    quarantine = pq.read_table(dataset.quarantine).to_pylist()
    assert len(rows) == dataset.rows
    assert len(quarantine) == dataset.quarantined
    if quarantine:
        return "quarantined", quarantine[0]["reason"], rows
    return "accepted, with a warning" if dataset.warnings else "accepted", " ".join(dataset.warnings), rows


@pytest.mark.parametrize("row", rows_of_the_table(), ids=lambda row: row[0])
def test_the_page_says_what_happens(row: list[str], tmp_path: Path) -> None:
    name, what, said = row
    files, options, check = CASES[name]
    outcome, message, rows = happened(files, options, tmp_path)
    assert outcome == what, message
    if outcome == "accepted":
        assert check is not None
    else:
        assert said in message
    if check is not None:
        assert check(rows)


def test_the_page_has_a_row_for_each_case() -> None:
    assert [row[0] for row in rows_of_the_table()] == list(CASES)


def test_the_page_lists_the_texts_that_mean_a_missing_cell() -> None:
    page = PAGE.read_text(encoding="utf-8")
    listed = re.findall("`([^`]+)`", page.split("these texts")[1].split("(another list")[0])
    assert ["", *listed] == list(sources.DEFAULT_NULLS)


def test_what_is_refused_names_the_file_and_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "weather.csv").write_text("origin,temp\nEWR,39.0\n")
    with pytest.raises(InputError) as caught:
        sources.ingest(tmp_path / "weather.csv", tmp_path / "store", columns={"temperature": "double"})
    assert str(caught.value) == (
        f'{tmp_path}/weather.csv, column "temperature": the column is missing; '
        'the nearest name here is "temp". Rename the column, or score with a model '
        "that was trained without it."
    )


def test_the_quarantine_says_where_and_why(tmp_path: Path) -> None:
    text = "k,a\n" + "".join(f"{n},{n}\n" for n in range(40)) + '40,n.a.\n41,"5\n3,4,5\n7,1\n'
    (tmp_path / "a.csv").write_text(text)
    dataset = sources.ingest(tmp_path / "a.csv", tmp_path / "store", ids=["k"])
    lines = [tuple(line.values()) for line in pq.read_table(dataset.quarantine).to_pylist()]
    assert lines == [
        ("a.csv", 41, "a", '"n.a." is not a number', "n.a."),
        (
            "a.csv",
            42,
            None,
            csv_lines.NOT_CLOSED,
            '41,"5',
        ),
        ("a.csv", 43, None, "3 cells where the header has 2", "3,4,5"),
        ("a.csv", 44, None, "duplicate id", "7"),
    ]
    assert dataset.rows + dataset.quarantined + dataset.outside == 44


def test_a_time_of_another_kind_is_accepted_as_well(tmp_path: Path) -> None:
    times = ["2013-02-12T08:00:00", "2013-02-12 09:30:00+01:00", "2013-02-12", "2013-02-12T08:00:00.1234567Z"]
    (tmp_path / "a.csv").write_text("t\n" + "\n".join(times) + "\n")
    dataset = sources.ingest(tmp_path / "a.csv", tmp_path / "store")
    found = [value for batch in sources.batches(dataset) for value in batch.column("t").to_pylist()]
    assert dataset.time == "t"
    assert found == [
        datetime.datetime(2013, 2, 12, *clock, tzinfo=datetime.UTC)
        for clock in ((8,), (8, 30), (), (8, 0, 0, 123456))
    ]
