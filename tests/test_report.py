"""The report's ranking, q-values, flags and reasons, held against DuckDB and against definitions."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stand_in import make_dataset, make_job
from vae_core import job, ranking, report
from vae_core.errors import InputError
from vae_core.ranking import sort_records
from vae_core.report import Decision
from vae_core.work import NO_P_VALUE, SCORED, Cut, write_unit

Published = tuple[Path, Path]  # a dataset folder, and the folder of its report
NAMES = ["a", "b", "B", "é", "z", "Z", "10", "9", "", "日本", "\U0001f600", "\uffff"]


def scored(scores: np.ndarray, *, ids: list[str] | None = None, p: np.ndarray | None = None) -> pa.Table:
    """A thin table of records with these scores, in the order given."""
    n = len(scores)
    columns: dict[str, object] = dict.fromkeys(SCORED.names, np.zeros(n))
    columns |= {
        "record_id": ids if ids is not None else [f"r{i}" for i in range(n)],
        "anomaly_score": scores,
        "bound": -scores,
        "p_value": pa.array(np.full(n, np.nan) if p is None else p, from_pandas=True),
        "source": ["file.csv"] * n,
        "row": np.arange(1, n + 1),
        "_offset": np.arange(n, dtype=np.int32),
    }
    return pa.table(columns).select(SCORED.names).cast(SCORED)


def units_of(table: pa.Table, folder: Path, cuts: list[int]) -> list[Path]:
    """The table cut at these rows into sorted unit files."""
    folder.mkdir(parents=True, exist_ok=True)
    edges, files = [0, *sorted(cuts), table.num_rows], []
    for number, (first, last) in enumerate(pairwise(edges)):
        files.append(folder / f"unit-{number:05d}.parquet")
        write_unit(files[-1], str(number), sort_records(table.slice(first, last - first)), [])
    return files


def ranked(table: pa.Table, folder: Path, cuts: list[int], **settings: object) -> report.Ranking:
    (folder / "ranking").mkdir(parents=True, exist_ok=True)
    decision = settings.pop("decision", Decision())
    return report.rank(units_of(table, folder / "units", cuts), folder / "ranking", decision, **settings)


def in_order_by_duckdb(table: pa.Table) -> list[tuple[str, int]]:
    """The oracle. DuckDB compares text by its UTF-8 bytes."""
    records = table  # named in the query
    query = """SELECT record_id, row FROM records
               ORDER BY anomaly_score + 0 DESC, encode(record_id), source, row"""
    assert records.num_rows == table.num_rows
    return duckdb.sql(query).fetchall()


def keys(found: report.Ranking) -> list[tuple[str, int]]:
    table = pa.concat_tables(report.records(found))
    return list(zip(table["record_id"].to_pylist(), table["row"].to_pylist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_ranking_is_that_of_a_database(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    n = data.draw(st.integers(1, 60))
    numbers = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e300, -1e300, 5e-324, 1 / 3])
    scores = np.array(data.draw(st.lists(numbers, min_size=n, max_size=n)))
    ids = data.draw(st.lists(st.sampled_from(NAMES), min_size=n, max_size=n))
    cuts = data.draw(st.lists(st.integers(0, n), max_size=6))
    table = scored(scores, ids=ids)
    found = ranked(table, tmp_path_factory.mktemp("rank"), cuts)
    assert keys(found) == in_order_by_duckdb(table)


@pytest.mark.parametrize(
    "kind", ["normal", "all equal", "three values", "already in order", "in reverse order"]
)
def test_large_rankings_are_that_of_a_database(kind: str, tmp_path: Path) -> None:
    n, generator = 150_000, np.random.default_rng(1)
    scores = generator.normal(size=n)
    if kind == "all equal":
        scores[:] = 3.25
    elif kind == "three values":
        scores = np.round(np.clip(scores, -1, 1))
    elif kind != "normal":
        scores = np.sort(scores)[:: 1 if "reverse" in kind else -1]
    table = scored(scores, ids=[f"r{key}" for key in generator.permutation(n)])
    found = ranked(table, tmp_path, list(range(20_000, n, 20_000)))
    assert keys(found) == in_order_by_duckdb(table)
    assert [piece.num_rows for piece in report.records(found)] == [65_536, 65_536, 18_928]


def test_more_files_than_are_opened_at_once_are_merged_in_groups(tmp_path: Path) -> None:
    scores = np.random.default_rng(2).normal(size=1_000)
    table = scored(np.round(scores, 1))
    found = ranked(table, tmp_path, list(range(5, 1_000, 5)))
    assert len(list((tmp_path / "units").glob("*.parquet"))) == 200 > ranking.FILES_AT_ONCE
    assert keys(found) == in_order_by_duckdb(table)


def test_a_file_out_of_order_is_an_error_and_not_a_wrong_ranking(tmp_path: Path) -> None:
    for scores in ([1.0, 2.0], [1.0, np.nan], [np.inf, 1.0]):
        pq.write_table(scored(np.array(scores)), tmp_path / "unit.parquet")
        with pytest.raises(ValueError, match=r"is not sorted|no number"):
            report.rank([tmp_path / "unit.parquet"], tmp_path, Decision())


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """By definition, a double loop: the smallest m p_j / #(p <= p_j) over all j with p_j at least p_i."""
    m = len(p)
    return np.array([min(min(1.0, m * pj / np.sum(p <= pj)) for pj in p[p >= pi]) for pi in p])


@settings(max_examples=100, deadline=None)
@given(
    p=st.lists(
        st.one_of(st.just(float("nan")), st.floats(0, 1), st.sampled_from([0.0, 0.01, 0.02, 0.5, 1.0])),
        max_size=40,
    ),
    rows=st.integers(1, 50),
    in_order=st.booleans(),
)
def test_q_values_are_those_of_the_definition(
    p: list[float], rows: int, in_order: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("q")
    values = np.array(sorted(p, key=lambda x: (x != x, x)) if in_order else p, dtype=np.float64)
    (folder / "p").write_bytes(values.tobytes())
    ranking.write_q_values(folder / "p", folder / "q", rows=rows)
    q = np.fromfile(folder / "q")
    there = ~np.isnan(values)
    assert np.array_equal(np.isnan(q), ~there)
    np.testing.assert_allclose(q[there], benjamini_hochberg(values[there]), rtol=1e-12)
    assert sorted(path.name for path in folder.iterdir()) == ["p", "q"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset of 3,000 records (with copies and missing cells), and its published report."""
    folder = tmp_path_factory.mktemp("published")
    data = make_dataset(folder)
    outcome = job.run(make_job(data, folder / "reports", decision=Decision(fdr=0.05), explained=200))
    return data, outcome.folder


def ask(folder: Path, query: str) -> list[tuple]:
    """SQL over the report as `r`."""
    return duckdb.sql(f"WITH r AS (FROM read_parquet('{folder / 'report.parquet'}')) {query}").fetchall()


def test_ranks_run_from_1_to_n_in_the_order_of_the_score(published: Published) -> None:
    _, folder = published
    assert ask(folder, "SELECT min(rank), max(rank), count(DISTINCT rank), count(*) FROM r") == [
        (1, 3000, 3000, 3000)
    ]
    query = """SELECT count(*) FROM (SELECT rank, row_number() OVER (ORDER BY anomaly_score DESC,
               encode(record_id), source, row) AS place FROM r) WHERE rank <> place"""
    assert ask(folder, query) == [(0,)]


def test_every_record_of_the_input_is_in_the_report_once(published: Published) -> None:
    data, folder = published
    query = f"""SELECT count(*), count(r.rank), count(d._row) FROM r FULL JOIN
                read_parquet('{data}/part-*.parquet') d
                ON r.source = d._source AND r.row = d._row AND r.record_id = d._record_id"""
    assert ask(folder, query) == [(3000, 3000, 3000)]


def test_elbo_is_reconstruction_minus_kl_and_reasons_and_rest_sum_to_the_bound(
    published: Published,
) -> None:
    _, folder = published
    assert ask(folder, "SELECT count(*) FROM r WHERE abs(elbo - (reconstruction - kl)) > 1e-9") == [(0,)]
    sums = "abs(list_sum(list_transform(reasons, lambda x: x.nats)) + rest_nats - bound)"
    assert ask(folder, f"SELECT count(*) > 0, max({sums}) < 1e-9 FROM r WHERE reasons IS NOT NULL") == [
        (True, True)
    ]


def test_q_values_are_those_of_sql(published: Published) -> None:
    _, folder = published
    query = """, counted AS (SELECT rank, p_value, q_value, count(*) OVER () AS m,
                   count(*) OVER (ORDER BY p_value RANGE UNBOUNDED PRECEDING) AS at_most
                   FROM r WHERE p_value IS NOT NULL),
               by_definition AS (SELECT *, least(1, min(m * p_value / at_most)
                   OVER (ORDER BY p_value DESC RANGE UNBOUNDED PRECEDING)) AS q FROM counted)
               SELECT count(*), max(abs(q / q_value - 1)) < 1e-12 FROM by_definition"""
    rows = ask(folder, "SELECT count(p_value) FROM r")[0][0]
    assert ask(folder, query) == [(rows, True)]
    assert 0 < rows < 3000
    assert ask(folder, "SELECT count(*) FROM r WHERE (p_value IS NULL) <> (q_value IS NULL)") == [(0,)]


def test_records_are_flagged_by_their_q_value_and_explained_if_flagged_or_near_the_top(
    published: Published,
) -> None:
    _, folder = published
    assert ask(folder, "SELECT count(*) FROM r WHERE flagged <> coalesce(q_value <= 0.05, false)") == [(0,)]
    for column in ("why", "reasons", "rest_nats", "tilt_nats"):
        told = f"SELECT count(*) FROM r WHERE ({column} IS NOT NULL) <> (flagged OR rank <= 200)"
        assert ask(folder, told) == [(0,)]
    assert ask(folder, "SELECT count(*) FROM r WHERE reasons IS NOT NULL AND why NOT LIKE 'x %'") == [(0,)]
    far = """SELECT count(*) FROM r WHERE rank <= 200
             AND abs(reasons[1].value_number^2 / 2 - anomaly_score) > 1e-9"""
    assert ask(folder, far) == [(0,)]


@pytest.mark.parametrize(
    ("decision", "condition"),
    [
        (Decision(alpha=0.2), "coalesce(p_value <= 0.2, false)"),
        (Decision(top_k=123), "rank <= 123"),
        (Decision(top_k=0), "false"),
        (Decision(fdr=0.0), "false"),
        (Decision(fdr=1.0), "p_value IS NOT NULL"),
    ],
)
def test_each_decision_flags_what_it_says(
    decision: Decision, condition: str, published: Published, tmp_path: Path
) -> None:
    data, _ = published
    outcome = job.run(make_job(data, tmp_path, decision=decision, explained=20))
    flags = f"SELECT count(*) FILTER (flagged <> ({condition})), count(*) FILTER (flagged) FROM r"
    wrong, flagged = ask(outcome.folder, flags)[0]
    assert wrong == 0
    assert outcome.manifest["counts"]["flagged"] == flagged
    told = "SELECT count(*) FROM r WHERE (why IS NOT NULL) <> (flagged OR rank <= 20)"
    assert ask(outcome.folder, told) == [(0,)]


def test_two_decisions_at_once_are_refused() -> None:
    with pytest.raises(InputError, match="fdr and top_k"):
        Decision(fdr=0.1, top_k=3)
    with pytest.raises(InputError, match="probability"):
        Decision(alpha=1.5)
    assert Decision() == Decision(fdr=0.05)


def test_the_bytes_do_not_depend_on_units_or_workers(published: Published, tmp_path: Path) -> None:
    data, folder = published
    for number, (rows, workers) in enumerate(
        [(3000, 1), (67, 1), (211, 2), (40, 1)]
    ):  # the last: more files than are open at once
        same = make_job(data, tmp_path / str(number), explained=200, rows_per_unit=rows)
        again = job.run(same, workers=workers).folder
        assert again.name == folder.name
        for name in ("report.parquet", "quarantine.parquet", "_manifest.json"):
            assert (again / name).read_bytes() == (folder / name).read_bytes(), (name, rows)


def test_ties_are_ranked_by_key_and_share_their_q_value(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, rows=2000)
    folder = job.run(make_job(data, tmp_path / "out", digits=1, rows_per_unit=90)).folder
    assert ask(folder, "SELECT count(DISTINCT anomaly_score) < 200 FROM r") == [(True,)]
    several = (
        "SELECT count(*) FROM (SELECT p_value FROM r GROUP BY p_value HAVING count(DISTINCT q_value) > 1)"
    )
    assert ask(folder, several) == [(0,)]
    broken = """SELECT count(*) FROM (SELECT encode(record_id) AS id, lag(encode(record_id)) OVER w AS before
                FROM r WINDOW w AS (PARTITION BY anomaly_score ORDER BY rank)) WHERE before > id"""
    assert ask(folder, broken) == [(0,)]


def test_the_file_has_checksums_descriptions_and_no_dictionary_for_floats(
    published: Published,
) -> None:
    _, folder = published
    file = pq.ParquetFile(folder / "report.parquet", page_checksum_verification=True)
    assert file.schema_arrow.equals(report.SCHEMA)
    assert all(field.metadata[b"description"] for field in file.schema_arrow)
    assert b'"gaussian"' in file.schema_arrow.metadata[b"elborank.likelihoods"]
    group = file.metadata.row_group(0)
    encodings = {group.column(c).path_in_schema: group.column(c).encodings for c in range(group.num_columns)}
    with_dictionary = {path for path, used in encodings.items() if "RLE_DICTIONARY" in used}
    assert with_dictionary == {"source", "model_version", "as_of", "reasons.list.element.feature"}
    damaged = bytearray((folder / "report.parquet").read_bytes())
    at = group.column(2).data_page_offset + 200
    damaged[at] ^= 1
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(pa.BufferReader(bytes(damaged)), page_checksum_verification=True).read(
            ["anomaly_score"]
        )


def test_a_score_that_is_no_number_names_its_record_and_file(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, rows=100, files=2)
    with pytest.raises(InputError, match=r'part-1.parquet, row 7: record "k\d+" got the anomaly score nan'):
        job.run(make_job(data, tmp_path / "out", load=load_spoiled))
    assert not list((tmp_path / "out").glob("*/run=*"))


class Spoiled:
    """A model with a damaged weight: nan for one record, which is row 7 of part-1."""

    def score(self, table: pa.Table) -> object:
        from tests.stand_in import StandIn

        scores = StandIn().score(table)
        places = zip(table["_source"].to_pylist(), table["_row"].to_pylist(), strict=True)
        scores.anomaly_score[[place == ("part-1.parquet", 7) for place in places]] = np.nan
        return scores


def load_spoiled(folder: Path, digest: str) -> Spoiled:
    return Spoiled()


def test_a_report_for_an_interval_says_so_in_every_row(published: Published, tmp_path: Path) -> None:
    data, _ = published
    moment = datetime(2013, 1, 1, tzinfo=UTC)
    outcome = job.run(make_job(data, tmp_path, as_of=moment))
    assert outcome.folder.name == "as_of=20130101T000000Z"
    assert outcome.manifest["as_of"] == "2013-01-01T00:00:00Z"
    assert set(pq.read_table(outcome.folder / "report.parquet")["as_of"].to_pylist()) == {moment}


def test_top_find_and_describe_give_plain_rows(published: Published) -> None:
    _, folder = published
    first = report.top(folder, 3)
    assert [row["rank"] for row in first] == [1, 2, 3]
    assert first == report.top(folder / "report.parquet", 3)
    assert len(report.top(folder, 10_000)) == 3000
    assert report.find(folder, first[1]["record_id"]) == [first[1]]
    with pytest.raises(InputError, match=r'no record "nobody".*ids look like "k\d+"'):
        report.find(folder, "nobody")
    assert report.describe(folder)["counts"]["ranked"] == 3000


PAGE = (Path(__file__).parents[1] / "docs" / "report.md").read_text()


def test_the_page_on_the_report_names_its_columns_with_their_meaning() -> None:
    rows = [f"| `{field.name}` | " for field in report.SCHEMA]
    section = PAGE.split("## Columns of report.parquet")[1].split("\n## ")[0]
    told = [line for line in section.splitlines() if line.startswith(tuple(rows))]
    assert [line.split("`")[1] for line in told] == report.SCHEMA.names
    for line, field in zip(told, report.SCHEMA, strict=True):
        assert line.endswith(f"| {field.metadata[b'description'].decode()} |")


def test_the_queries_of_that_page_run(published: Published) -> None:
    _, folder = published
    sql = PAGE.split("```sql")[1].split("```")[0].replace("report.parquet", str(folder / "report.parquet"))
    first, reasons, sums = (duckdb.sql(query).fetchall() for query in sql.split(";")[:3])
    assert [row[0] for row in first] == list(range(1, 11))
    assert reasons[0][:2] == (1, "x")
    assert max(sums[0]) < 1e-9


def test_the_cut_chooses_by_rank_and_by_p_value() -> None:
    table = ranking.sort_records(scored(np.array([3.0, 1.0, 2.0]), p=np.array([0.9, 0.1, np.nan])))
    key = ranking.sort_key(table, 0)
    assert Cut(key, NO_P_VALUE).chosen(table).tolist() == [0]
    assert Cut(key, 0.5).chosen(table).tolist() == [0, 2]
