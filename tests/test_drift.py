"""Drift: distances and p-values as SciPy has them, counts that add up however cut, and real weather."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from flows.cli import main
from tests import shop
from vae_core import drift, job, publishing, report, sources, storage, training
from vae_core.columns import describe
from vae_core.drift import distances

ROOT = Path(__file__).parents[1]
WEATHER = ROOT / "data" / "nyc_weather"
SUMMER = pd.Timestamp("2013-07-01", tz="UTC")


def profile(frame: pd.DataFrame, scores: np.ndarray | None = None, **kinds: str) -> drift.Profile:
    """The profile of a table, as training makes it."""
    columns = describe(iter(pa.Table.from_pandas(frame).to_batches()), kinds=kinds)
    model = SimpleNamespace(
        encoding=SimpleNamespace(described=columns),
        calibration=SimpleNamespace(scores=np.sort(np.empty(0) if scores is None else scores)),
    )
    found = drift.profile_of(model)
    assert found is not None
    return found


def compared(before: pd.DataFrame, after: pd.DataFrame, **kinds: str) -> dict[str, dict]:
    own = profile(before, **kinds)
    rows = drift.table(own, own.count(pa.Table.from_pandas(after), None)).to_pylist()
    return {row["column"]: row for row in rows}


def mixed(n: int, seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    size = generator.normal(10, 3, n)
    size[generator.random(n) < 0.05] = np.nan
    return pd.DataFrame(
        {
            "size": size,
            "rain": np.maximum(0, generator.normal(-1, 1, n)),  # mostly 0: repeated values
            "people": generator.poisson(3, n),
            "card": generator.random(n) < 0.3,
            "colour": generator.choice(["red", "green", "blue"], n, p=[0.5, 0.3, 0.2]),
            "fixed": ["x"] * n,
        }
    )


def test_ks_of_numbers_is_scipys_to_the_resolution_of_the_percentiles() -> None:
    before, after = mixed(4000, 1), mixed(3000, 2)
    after["size"] += 0.6
    after["rain"] *= 1.3
    found = compared(before, after)
    for name in ("size", "rain", "people"):
        known = stats.ks_2samp(before[name].dropna(), after[name].dropna(), method="asymp")
        assert 0 <= known.statistic - found[name]["distance"] < 0.01
        assert found[name]["n_current"] == after[name].notna().sum()
    assert found["people"]["distance"] == pytest.approx(
        stats.ks_2samp(before["people"], after["people"]).statistic
    )
    known_p = stats.kstwobign.sf(np.sqrt(4000 * 3000 / 7000) * found["rain"]["distance"])
    assert found["rain"]["p_value"] == pytest.approx(known_p)


def test_total_variation_chi_squared_and_rates_are_scipys() -> None:
    before, after = mixed(4000, 1), mixed(3000, 2)
    after["colour"] = np.random.default_rng(3).choice(["red", "green", "violet"], 3000, p=[0.6, 0.3, 0.1])
    after.loc[: 3000 // 2, "size"] = np.nan
    found = compared(before, after)
    was = before["colour"].value_counts(normalize=True)
    now = after["colour"].value_counts(normalize=True)
    assert found["colour"]["distance"] == pytest.approx(was.sub(now, fill_value=0).abs().sum() / 2)
    assert found["colour"]["outside_current"] == pytest.approx(now["violet"])
    table = pd.concat([before["colour"].value_counts(), after["colour"].value_counts()], axis=1).fillna(0)
    known = stats.chi2_contingency(table.to_numpy().T, correction=False)
    p = distances.chi_squared_p_value(*table.to_numpy().T)
    assert p == pytest.approx(known.pvalue)
    assert found["size"]["statistic"] == "missing_rate"
    rates = before["size"].isna().mean(), after["size"].isna().mean()
    assert (found["size"]["missing_training"], found["size"]["missing_current"]) == pytest.approx(rates)
    assert found["size"]["effect"] == pytest.approx(rates[1] - rates[0])
    both = np.array([[200, 3800], [160, 2840]])
    z = stats.chi2_contingency(both, correction=False)  # two rates: the same test
    assert distances.rates_p_value(200, 4000, 160, 3000) == pytest.approx(z.pvalue)


def test_p_values_without_drift_are_uniform_or_larger_and_every_verdict_is_stable() -> None:
    before = mixed(3000, 0)
    own = profile(before)
    p, verdicts = [], set()
    for seed in range(1, 41):
        rows = drift.table(own, own.count(pa.Table.from_pandas(mixed(150, seed)), None)).to_pylist()
        p += [row["p_value"] for row in rows if row["column"] in ("size", "rain", "colour")]
        verdicts |= {row["verdict"] for row in rows}
    assert np.mean(np.array(p) <= 0.05) < 0.08
    assert verdicts == {"stable"}


def test_with_few_records_the_tests_are_fishers_exact_ones() -> None:
    """An ordinary gap or a rare class in a report of three records is no drift."""
    for few, n, others, m in ((20, 10_000, 1, 3), (10, 10_000, 1, 5), (0, 500, 2, 4)):
        exact = stats.fisher_exact([[few, n - few], [others, m - others]]).pvalue
        assert distances.rates_p_value(few, n, others, m) == pytest.approx(exact)
    was, now = np.array([9950, 50, 0]), np.array([18, 2, 0])
    assert distances.chi_squared_p_value(was, now) == pytest.approx(
        2 * stats.fisher_exact([[9950, 50], [18, 2]]).pvalue
    )


@pytest.mark.parametrize("rows", [3, 5, 10, 30])
def test_small_reports_raise_no_more_alarms_than_they_may(rows: int) -> None:
    generator = np.random.default_rng(rows)
    shares = np.array([0.9, 0.09, 0.008, 0.002])
    was = generator.multinomial(10_000, shares)
    drawn = generator.multinomial(rows, shares, size=2000)
    p = np.array([distances.chi_squared_p_value(was, now) for now in np.unique(drawn, axis=0)])
    again = {tuple(now): p[i] for i, now in enumerate(np.unique(drawn, axis=0))}
    assert np.mean([again[tuple(now)] <= 0.01 for now in drawn]) <= 0.015


def test_the_verdict_goes_by_the_effect_however_many_records_there_are() -> None:
    generator = np.random.default_rng(0)
    before = pd.DataFrame({"x": generator.normal(size=40_000)})
    for shift, verdict in ((0.1, "stable"), (0.4, "moderate"), (1.0, "strong")):
        found = compared(before, pd.DataFrame({"x": generator.normal(size=200_000) + shift}))["x"]
        assert found["verdict"] == verdict
        assert found["p_value"] < 1e-9
        # two normals apart by a shift: KS = 2 Phi(shift / 2) - 1
        assert found["effect"] == pytest.approx(2 * stats.norm.cdf(shift / 2) - 1, abs=0.012)
        assert found["median_current"] == pytest.approx(shift, abs=0.03)


def test_counts_add_up_to_the_same_table_however_it_is_cut() -> None:
    own, after = profile(mixed(2000, 1)), pa.Table.from_pandas(mixed(1700, 2))
    whole = own.count(after, None)
    for cut in (13, 400):
        pieces = [own.count(after.slice(first, cut), None) for first in range(0, after.num_rows, cut)]
        assert np.array_equal(sum(pieces), whole)
    read = {c.name: part for c, part in zip(own.columns, own.split(whole), strict=True)}
    assert {part.observed + part.missing for part in read.values()} == {1700}
    frame = after.to_pandas()
    column = next(c for c in own.columns if c.name == "size")
    outside = (frame["size"] < column.low) | (frame["size"] > column.high)
    assert read["size"].outside == outside.sum()
    assert own.split(own.count(after.slice(0, 0), None))[0].observed == 0


def test_bins_are_shares_that_sum_to_one_and_cells_hold_what_they_say() -> None:
    before, after = mixed(2000, 1), mixed(1500, 2)
    for row in compared(before, after).values():
        for when in ("training", "current"):
            assert sum(one[when] for one in row["bins"]) == pytest.approx(1)
    rain = compared(before, after)["rain"]["bins"]
    at_zero = [one for one in rain if one["low"] is None or one["low"] <= 0]
    assert sum(one["current"] for one in at_zero) >= (after["rain"] == 0).mean()


def test_extreme_values_give_finite_figures() -> None:
    before = pd.DataFrame({"x": np.r_[np.random.default_rng(0).normal(size=500), 1.7e308, -1.7e308]})
    found = compared(before, pd.DataFrame({"x": [1.7e308, -1.7e308, np.inf, 0.0, np.nan] * 40}))["x"]
    figures = [v for k, v in found.items() if isinstance(v, float)]
    assert np.isfinite(figures).all()
    nothing = compared(before, pd.DataFrame({"x": pd.Series([np.nan] * 50)}))["x"]
    assert (nothing["statistic"], nothing["verdict"]) == ("missing_rate", "strong")


def test_an_older_profile_without_exact_shares_is_read_from_its_percentiles() -> None:
    before, after = mixed(4000, 1), mixed(3000, 2)
    columns = describe(iter(pa.Table.from_pandas(before).to_batches()))
    for column in columns:
        column.histogram, column.outside = [], None
    model = SimpleNamespace(
        encoding=SimpleNamespace(described=columns), calibration=SimpleNamespace(scores=np.empty(0))
    )
    old = drift.profile_of(model)
    assert old is not None
    rows = drift.table(old, old.count(pa.Table.from_pandas(after), None)).to_pylist()
    exact = compared(before, after)
    assert all(abs(row["effect"] - exact[row["column"]]["effect"]) < 0.011 for row in rows)
    assert drift.profile_of(SimpleNamespace()) is None


# ------------------------------------------------------------------------------- weather, whole jobs


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on January to June, and three datasets: that, a random half of it, July to December."""
    place = tmp_path_factory.mktemp("weather")
    frame = pd.concat([pd.read_parquet(file) for file in sorted(WEATHER.glob("*.parquet"))])
    early = frame[frame["time_hour"] < SUMMER]
    parts = {"early": early, "half": early.sample(frac=0.5, random_state=0), "late": frame.drop(early.index)}
    parts["late"] = frame[frame["time_hour"] >= SUMMER]
    for name, part in parts.items():
        part.to_parquet(place / f"{name}.parquet", index=False)
        sources.ingest(place / f"{name}.parquet", place / "store", name=name, ids=["origin", "time_hour"])
    data = sources.open_dataset(dataset(place, "early"))
    settings = training.Settings(steps=5, kernel_weight=0, latent=2, hidden=(8,), members=1, draws=1)
    model = training.fit(lambda: sources.batches(data), ids=data.ids, time=data.time, settings=settings)
    storage.save(model, place / "model")
    return place


def dataset(place: Path, name: str) -> Path:
    return next((place / "store" / name).parent.glob(f"{name}*"))


def scored(place: Path, name: str, output: Path, **settings: object) -> job.Outcome:
    return job.run(job.Job(dataset(place, name), place / "model", output, explained=5, **settings))  # type: ignore[arg-type]


def test_weather_of_july_to_december_has_drifted_and_a_random_half_of_training_has_not(
    weather: Path, tmp_path: Path
) -> None:
    half, late = (scored(weather, name, tmp_path) for name in ("half", "late"))
    assert half.manifest["drift"]["verdict"] == "stable"
    assert {"temp", "dewp"} <= set(late.manifest["drift"]["strong"])
    rows = {row["column"]: row for row in drift.read(late.folder).to_pylist()}  # type: ignore[union-attr]
    assert next(iter(rows)) == drift.SCORE
    assert rows["origin"]["verdict"] == "stable"
    frame = pq.read_table(weather / "late.parquet").to_pandas()
    assert rows["temp"]["median_current"] == pytest.approx(frame["temp"].median(), abs=0.5)
    unseen = pq.read_table(late.folder / report.REPORT)["p_value"]
    assert rows[drift.SCORE]["n_current"] == len(unseen) - unseen.null_count


def test_the_drift_table_is_the_same_bytes_in_any_units_and_belongs_to_the_hashes(
    weather: Path, tmp_path: Path
) -> None:
    one = scored(weather, "half", tmp_path / "one")
    plan = job.prepare(
        job.Job(
            dataset(weather, "half"), weather / "model", tmp_path / "two", explained=5, rows_per_unit=1000
        )
    )
    results = job.score(plan)
    assert len(results) > 5
    file = counting_file(plan, results[0].id)
    file.write_bytes(file.read_bytes()[:-3])  # a damaged count: the unit is done again
    two = job.run(plan.job)
    names = {path.name: path.read_bytes() for path in one.folder.iterdir() if path.suffix == ".parquet"}
    assert names == {
        path.name: path.read_bytes() for path in two.folder.iterdir() if path.suffix == ".parquet"
    }
    assert drift.DRIFT in publishing.verify(one.folder)["files"]
    shutil.copytree(one.folder, tmp_path / "copy")
    (tmp_path / "copy" / drift.DRIFT).unlink()
    with pytest.raises(report.InputError, match="is missing"):
        report.verify(tmp_path / "copy")


def counting_file(plan: job.Plan, unit: str) -> Path:
    from vae_core.work import counts_file

    return counts_file(job.scored_file(plan.staging, unit))


# ------------------------------------------------------------------------------- commands


def test_score_tells_of_drift_and_fails_on_it_where_asked_with_the_report_published(
    in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sales = shop.sales()
    sales["weight"] += 3.0
    sales["price"] *= 2
    sales.tail(200).to_csv(tmp_path / "dear.csv", index=False)
    command = ["score", str(tmp_path / "dear.csv"), "--model", "models:/shop", "--output", str(tmp_path)]
    assert main([*command, "--on-drift", "warn"]) == 0
    told = capsys.readouterr().out
    assert "Drift since training: strong" in told and "weight" in told
    assert max(len(line) for line in told.splitlines() if str(tmp_path) not in line) <= 120
    assert main([*command, "--on-drift", "fail", "--json"]) == 3
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert "drift is strong in" in printed.err and "is published" in printed.err
    assert "(on drift: fail)" in printed.err  # --on-drift here, on_drift in a dataset file
    assert result["published"] is False and result["drift"]["failed"] is True
    assert main(["drift", result["folder"]]) == 0
    assert "(anomaly score)" in capsys.readouterr().out
    assert main(["drift", result["folder"], "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["verdict"] for row in rows if row["column"] in ("weight", "price")} == {"strong"}


def test_the_page_on_the_report_names_the_columns_of_the_drift_table() -> None:
    page = (ROOT / "docs" / "report.md").read_text()
    section = page.split("## Columns of drift.parquet")[1].split("\n## ")[0]
    for field in drift.SCHEMA:
        line = next(line for line in section.splitlines() if line.startswith(f"| `{field.name}` | "))
        assert line.endswith(f"| {field.metadata[b'description'].decode()} |")


@pytest.mark.parametrize(("factor", "told"), [(1.0, "now "), (1000.0, "now above "), (-1000.0, "now below ")])
def test_a_median_beyond_all_of_trainings_numbers_is_said_to_lie_there(factor: float, told: str) -> None:
    before = pd.DataFrame({"x": np.random.default_rng(0).normal(10, 1, 500)})
    row = compared(before, factor * before)["x"]
    assert before["x"].min() <= row["median_current"] <= before["x"].max()
    assert f", {told}{row['median_current']:.4g}" in row["change"]
