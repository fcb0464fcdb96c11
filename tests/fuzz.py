"""Mutated Parquet, CSV and image files and model folders: read as something, or refused in one line.

    python -m tests.fuzz [--parquet 5000] [--csv 2000] [--images 2000] [--models 500] [--seed 0]

Cases run in forks, so that a crash or a hang ends its case and no more. Wrong is: a crash, more than ten
seconds, an error that is not ours, counts that do not add up; of Parquet files (whose pages carry checksums)
and models (whose files have hashes) also: other values than the whole file's. A case is named by kind and
number; `--only KIND --seed N` runs it again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SECONDS = 10  # more is a hang
PER_FORK = 50
Outcome = str


def mutated(data: bytes, generator: np.random.Generator) -> bytes:
    """Flipped bits, other bytes, a cut, a doubled, removed or zeroed piece: one to four of them."""
    content = bytearray(data)
    for _ in range(int(generator.integers(1, 5))):
        if not content:
            break
        place, length = int(generator.integers(len(content))), int(generator.integers(1, 40))
        piece = content[place : place + length]
        kind = int(generator.integers(7))
        if kind == 0:
            content[place] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            content[place] = int(generator.integers(256))
        elif kind == 2:
            del content[place:]
        elif kind == 3:
            content[place:place] = piece
        elif kind == 4:
            del content[place : place + length]
        elif kind == 5:
            content[place : place + length] = bytes(len(piece))
        else:
            content[place : place + length] = generator.bytes(len(piece))
    return bytes(content)


# ------------------------------------------------------------------------------- the four kinds


def table() -> pa.Table:
    generator = np.random.default_rng(1)
    rows = 120
    return pa.table(
        {
            "key": [f"k{n}" for n in range(rows)],
            "x": generator.normal(size=rows),
            "n": generator.integers(0, 1000, rows),
            "kind": generator.choice(["red", "green", "blue, dark"], rows),
            "when": pa.array(np.datetime64("2024-01-01") + np.arange(rows), pa.timestamp("us", "UTC")),
            "ok": generator.random(rows) < 0.5,
        }
    )


def parquet_file() -> bytes:
    sink = io.BytesIO()
    pq.write_table(table(), sink, row_group_size=50, write_page_checksum=True)
    return sink.getvalue()


def csv_file() -> bytes:
    return table().to_pandas().to_csv(index=False).encode()


def picture(kind: str) -> bytes:
    sink = io.BytesIO()
    pixels = np.random.default_rng(2).integers(0, 256, (24, 24), dtype=np.uint8)
    Image.fromarray(pixels).save(sink, kind)
    return sink.getvalue()


def kept(dataset: Any) -> dict[int, dict[str, Any]]:
    from vae_core import sources

    rows = [row for batch in sources.batches(dataset) for row in batch.to_pylist()]
    return {row["_row"]: {k: v for k, v in row.items() if not k.startswith("_")} for row in rows}


def try_table(data: bytes, name: str, folder: Path, whole: dict[int, dict[str, Any]] | None) -> Outcome:
    from vae_core import sources
    from vae_core.errors import InputError

    (folder / name).write_bytes(data)
    try:
        dataset = sources.ingest(folder / name, folder / "store")
    except InputError as error:
        assert "\n" not in str(error)
        return "refused"
    rows = kept(dataset)
    assert len(rows) == dataset.rows, "the counts do not add up"
    assert pq.read_metadata(dataset.quarantine).num_rows == dataset.quarantined
    if whole is not None:
        for number, row in rows.items():
            same = {k: v for k, v in row.items() if k in whole.get(number, {})}
            assert all(whole[number][k] == v for k, v in same.items()), f"row {number} is silently another"
    return "read, some rows in quarantine" if dataset.quarantined else "read"


def try_parquet(generator: np.random.Generator, folder: Path, made: Any) -> Outcome:
    data, whole = made
    return try_table(mutated(data, generator), "a.parquet", folder, whole)


def try_csv(generator: np.random.Generator, folder: Path, made: bytes) -> Outcome:
    return try_table(mutated(made, generator), "a.csv", folder, None)


def try_image(generator: np.random.Generator, folder: Path, made: dict[str, bytes]) -> Outcome:
    from vae_core.errors import InputError
    from vae_core.images.ingest import ingest

    ending = sorted(made)[int(generator.integers(len(made)))]
    (folder / "in").mkdir()
    (folder / "in" / f"a.{ending}").write_bytes(mutated(made[ending], generator))
    (folder / "in" / "b.png").write_bytes(made["png"])
    try:
        dataset = ingest(folder / "in", folder / "store", size=(8, 8))
    except InputError as error:
        assert "\n" not in str(error)
        return "refused"
    assert dataset.rows + dataset.quarantined == 2, "the counts do not add up"
    return "quarantined" if dataset.quarantined else "read"


def try_model(generator: np.random.Generator, folder: Path, made: Path) -> Outcome:
    """One file changed; every other time by somebody who makes the manifest fit."""
    from tests.bench.bad_models import reseal
    from vae_core import storage
    from vae_core.errors import InputError

    copy = folder / "model"
    shutil.copytree(made, copy)
    names = sorted(path.name for path in copy.iterdir())
    path = copy / names[int(generator.integers(len(names)))]
    before = path.read_bytes()
    path.write_bytes(mutated(before, generator))
    fits = path.name != "manifest.json" and bool(generator.integers(2))
    if fits:
        reseal(copy)
    try:
        storage.load(copy)
    except InputError as error:
        assert "\n" not in str(error)
        return "refused"
    if not fits:
        assert path.name == "manifest.json" or path.read_bytes() == before, "a damaged file was taken"
    return "loaded, its hashes fit"


def make_parquet(folder: Path) -> Any:
    from vae_core import sources

    data = parquet_file()
    (folder / "whole.parquet").write_bytes(data)
    return data, kept(sources.ingest(folder / "whole.parquet", folder / "whole"))


def make_images(_: Path) -> dict[str, bytes]:
    return {"png": picture("PNG"), "jpg": picture("JPEG"), "tif": picture("TIFF"), "bmp": picture("BMP"),
            "webp": picture("WEBP")}  # fmt: skip


def make_model(_: Path) -> Path:
    return Path(__file__).parent / "frozen_models" / "v0.1" / "model"


KINDS: dict[str, tuple[Callable[[Path], Any], Callable[..., Outcome], int]] = {
    "parquet": (make_parquet, try_parquet, 5000),
    "csv": (lambda _: csv_file(), try_csv, 2000),
    "images": (make_images, try_image, 2000),
    "models": (make_model, try_model, 500),
}


# ------------------------------------------------------------------------------- running


def one(kind: str, number: int, made: Any, folder: Path) -> Outcome:
    """One case in this process: its outcome, or WRONG and why."""
    place = folder / f"{kind}-{number}"
    place.mkdir()
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return KINDS[kind][1](np.random.default_rng([number, *kind.encode()]), place, made)
    except Exception as problem:  # noqa: BLE001 - whatever it is, it is a finding
        where = traceback.extract_tb(problem.__traceback__)[-1]
        place_of_it = f"{Path(where.filename).name}:{where.lineno}"
        return f"WRONG {type(problem).__name__}: {str(problem)[:200]} ({place_of_it})"
    finally:
        signal.alarm(0)
        shutil.rmtree(place, ignore_errors=True)


def run(kind: str, numbers: range, folder: Path) -> dict[int, Outcome]:
    """Cases in forks; the one that ends its fork is told by its number."""
    made = KINDS[kind][0](folder)
    outcomes: dict[int, Outcome] = {}
    waiting = list(numbers)
    while waiting:
        chunk, log = waiting[:PER_FORK], folder / "outcomes"
        child = os.fork()
        if child == 0:
            with log.open("w") as file:
                for number in chunk:
                    file.write(f"{number}\t{' '.join(one(kind, number, made, folder).split())}\n")
                    file.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        told = [line.split("\t") for line in log.read_text().splitlines()]
        outcomes |= {int(number): outcome for number, outcome in told}
        if status and len(told) < len(chunk):
            dead = chunk[len(told)]
            code = os.waitstatus_to_exitcode(status)
            outcomes[dead] = f"WRONG {'hang' if code == -signal.SIGALRM else f'crash ({code})'}"
        waiting = [number for number in waiting if number not in outcomes]
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for kind, (_, _, count) in KINDS.items():
        parser.add_argument(f"--{kind}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0, help="The first case's number.")
    parser.add_argument("--only", choices=sorted(KINDS))
    options = parser.parse_args()
    from vae_core import storage  # noqa: F401 - once, for all forks

    wrong = 0
    for kind in [options.only] if options.only else KINDS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="elborank-fuzz-") as folder:
            count = getattr(options, kind)
            outcomes = run(kind, range(options.seed, options.seed + count), Path(folder))
        bad = {number: outcome for number, outcome in outcomes.items() if outcome.startswith("WRONG")}
        told = Counter(outcome for outcome in outcomes.values() if not outcome.startswith("WRONG"))
        print(f"{kind}: {len(outcomes)} cases in {time.monotonic() - began:.0f} s, {len(bad)} wrong; "
              + ", ".join(f"{what} {n}" for what, n in told.most_common()), flush=True)  # fmt: skip
        for number, outcome in list(bad.items())[:20]:
            print(f"  {kind} {number}: {outcome}", flush=True)
        wrong += len(bad)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
