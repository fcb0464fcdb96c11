"""`make demo`: New York's weather of 2013, from raw files to a ranked report, and twenty planted errors.

Everything runs as Prefect flows with Prefect's embedded server, its files under `.elborank/`. A second run
trains nothing and publishes nothing: the same data, settings and model are found again.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from flows import registry, terminal
from vae_core import sources, storage
from vae_core.errors import InputError, Refused
from vae_core.members import IndependentColumns

DATA = "data/nyc_weather"
NAME = "nyc-weather"
WINTER_ENDS = "2013-03-01"
PLANTED = 20
DEGREES = 15.0  # between the dew point that an hour had and the one that it is given
TOP = 0.01


def main() -> int:
    """Run the demo; returns the exit code."""
    home = registry.home() / "prefect"
    home.mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder only
    os.environ.setdefault("PREFECT_HOME", str(home))
    console = Console(highlight=False, emoji=False)
    try:
        demo(console)
    except (InputError, Refused) as error:
        return terminal.fail(str(error), 2)
    return 0


def demo(console: Console) -> None:
    """Train on March to December, rank January and February, then look for what we planted."""
    from flows.score import score_flow
    from flows.train import train_flow

    console.rule("Train on March to December 2013")
    trained = train_flow(DATA, NAME, ids=["origin", "time_hour"], start=WINTER_ENDS)
    terminal.trained(console, trained)
    model = f"models:/{NAME}/{trained['version']}"
    console.rule("Rank January and February")
    scored = score_flow(DATA, model, output="reports", until=WINTER_ENDS, fdr=0.05)
    terminal.scored(console, scored)
    explained = scored["top"][0] | {"ranked": scored["ranked"]}
    console.rule("The strangest hour of the winter")
    terminal.explained(console, explained)
    console.rule(f"{PLANTED} planted errors")
    version = registry.resolve(model)
    planted, keys = plant(version)
    found = score_flow(str(planted), model, output="reports", dataset=f"{NAME}-planted", fdr=0.05)
    show_planted(console, version, planted, keys, found)
    show_the_way(console, scored)
    if trained["reused"] and not scored["published"] and not found["published"]:
        console.print("Nothing was trained and nothing published: all of it was there already.")


def show_the_way(console: Console, scored: dict[str, Any]) -> None:
    """Where to look next: the page, and one command."""
    console.rule("See for yourself")
    if scored.get("page"):
        page = Path(scored["page"]).absolute().as_uri()
        console.print(f"Open this page in a browser: {page}", soft_wrap=True)
    first = scored["top"][0]["record_id"]
    console.print("Or ask why the first record is strange:")
    if shutil.which("elborank") is None:
        activate = Path(os.path.relpath(Path(sys.executable).parent / "activate"))
        console.print(f"  source {shlex.quote(str(activate))}", soft_wrap=True, markup=False)
    command = f"elborank explain {shlex.quote(scored['folder'])} {shlex.quote(first)}"
    console.print(f"  {command}", soft_wrap=True, markup=False)


def plant(version: registry.ModelVersion) -> tuple[Path, list[str]]:
    """The winter again, but 20 hours have the dew point of another hour: the file, and their keys.

    The new value is at least 15 degrees from the true one, and one that another hour of this winter had: in
    range, so that no single column looks odd.
    """
    winter = _winter(version)
    dew = winter.column("dewp").to_numpy(zero_copy_only=False).astype(float)
    known = np.flatnonzero(~np.isnan(dew))
    generator = np.random.default_rng(2013)
    chosen = np.sort(generator.choice(known, PLANTED, replace=False))
    values = dew.copy()
    for row in chosen:
        far = known[np.abs(dew[known] - dew[row]) >= DEGREES]
        values[row] = dew[generator.choice(far)]
    place = winter.column_names.index("dewp")
    table = winter.set_column(place, "dewp", pa.array(values, from_pandas=True))
    keys = [winter.column("_record_id")[int(row)].as_py() for row in chosen]
    path = registry.home() / "demo" / "planted.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.drop_columns(["_record_id", "_source", "_row"]), path)
    return path, keys


def _winter(version: registry.ModelVersion) -> pa.Table:
    from flows import steps

    data = steps.ingest(DATA, **steps.as_the_model_reads(version), until=WINTER_ENDS)
    return pa.Table.from_batches(list(sources.batches(data)))


def independent_columns(version: registry.ModelVersion, planted: Path) -> dict[str, int]:
    """The rank of each record under a baseline that sees no dependence between columns."""
    from flows import steps

    encoding = storage.load(version.folder).encoding
    training = steps.ingest(DATA, **steps.as_the_model_reads(version), start=WINTER_ENDS)
    known = encoding.encode(pa.Table.from_batches(list(sources.batches(training))))
    data = steps.ingest(str(planted), **steps.as_the_model_reads(version), dataset=f"{NAME}-planted")
    table = pa.Table.from_batches(list(sources.batches(data)))
    new = encoding.encode(table)
    baseline = IndependentColumns.fit(known.values, known.mask, encoding.features)
    order = np.argsort(baseline.score(new.values, new.mask), kind="stable")  # low = anomalous
    keys = table.column("_record_id").to_pylist()
    return {keys[row]: rank for rank, row in enumerate(order, start=1)}


def show_planted(
    console: Console, version: registry.ModelVersion, planted: Path, keys: list[str], found: dict[str, Any]
) -> None:
    """How many of the planted records stand in the top 1 %, by the VAE and by independent columns."""
    report = pq.read_table(Path(found["folder"]) / "report.parquet", columns=["record_id", "rank", "reasons"])
    rows = {row["record_id"]: row for row in report.to_pylist()}
    limit = int(TOP * report.num_rows)
    baseline = independent_columns(version, planted)
    ours = [key for key in keys if rows[key]["rank"] <= limit]
    theirs = [key for key in keys if baseline[key] <= limit]
    related = {"dewp", "humid", "temp"}
    told = [key for key in ours if related & {reason["feature"] for reason in rows[key]["reasons"] or []}]
    console.print(
        f"{PLANTED} hours were given the dew point of another hour, at least {DEGREES:g} degrees away and in "
        f"range. In the top {TOP:.0%} ({limit} of {report.num_rows:,} records) are:"
    )
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    table.add_column("ranked by")
    table.add_column("found", justify="right")
    table.add_row("this model", f"{len(ours)} of {PLANTED}")
    table.add_row("independent columns", f"{len(theirs)} of {PLANTED}")
    console.print(table)
    console.print(f"{len(told)} of the {len(ours)} name the dew point, or what depends on it, as a reason.")


if __name__ == "__main__":
    sys.exit(main())
