"""Bad inputs, each with what is said about it: one table that a test runs and docs/bad-inputs.md shows.

    python -m tests.bad_inputs          writes the page

Raw tables are in tests/test_input.py (CASES) and docs/input.md, which this table takes over.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests import shop
from vae_core.errors import one_line

PAGE = Path(__file__).resolve().parent.parent / "docs" / "bad-inputs.md"
MODEL = "models:/shop@champion"


@dataclass(frozen=True)
class Bad:
    """A bad input: the command that gets it in the shop's folder, its files, and what is said (exit code 2)."""

    area: str
    name: str
    command: list[str]
    said: str
    files: dict[str, bytes] = field(default_factory=dict)
    make: Callable[[Path], None] | None = None  # what files alone cannot say; gets the folder


def png(size: tuple[int, int] = (8, 8)) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint8).reshape(size)).save(sink, "PNG")
    return sink.getvalue()


def npy(array: Any, **how: Any) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, **how)
    return sink.getvalue()


def npz(**arrays: Any) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    return sink.getvalue()


# ------------------------------------------------------------------------------- what is typed

TYPED = [
    ("a file that is not there", ["score", "nowhere.csv", "--model", MODEL], "there is no such file or folder"),
    ("a model that is not there", ["score", "sales.csv", "--model", "models:/ship@champion"], "models:/shop@champion (version 1)"),
    ("a version that is not there", ["score", "sales.csv", "--model", "models:/shop/9"], "models:/shop@champion (version 1)"),
    ("an alias that is not there", ["score", "sales.csv", "--model", "models:/shop@best"], "models:/shop@champion (version 1)"),
    ("a folder that is no model", ["score", "sales.csv", "--model", "no/such"], "neither the address of a model nor"),
    ("an address that is none", ["score", "sales.csv", "--model", "models:shop"], "Write models:/NAME@champion"),
    ("two ways of flagging", [*shop.SCORE, "--fdr", "0.1", "--alpha", "0.1"], "fdr and alpha"),
    ("a false discovery rate above 1", [*shop.SCORE, "--fdr", "7"], "fdr"),
    ("an alpha below 0", [*shop.SCORE, "--alpha", "-0.1"], "alpha"),
    ("a member that the model does not have", [*shop.SCORE, "--members", "nobody"], "nobody"),
    ("a time that is none", [*shop.SCORE, "--as-of", "yesterday"], "Write 2013-03-01 or 2013-03-01T08:00:00Z"),
    ("a time before the year 1", [*shop.SCORE, "--as-of", "0001-01-01T00:00:00+14:00"], "is no time in UTC"),
    ("a time after the year 9999", ["ingest", "sales.csv", "--until", "9999-12-31T23:00:00-02:00"], "is no time in UTC"),
    ("an interval that is empty", [*shop.SCORE, "--until", "2024-01-02"], "the interval is empty"),
    ("no draws", [*shop.SCORE, "--draws", "0"], "greater than or equal to 1"),
    ("no workers", [*shop.SCORE, "--workers", "0"], "greater than or equal to 1"),
    ("an engine that is not there", [*shop.SCORE, "--engine", "spark"], "spark"),
    ("a ranking that tables do not have", [*shop.SCORE, "--rank-by", "beauty"], "beauty"),
    ("a model's name that leads elsewhere", ["train", "sales.csv", "--name", "../x"], "cannot name a model"),
    ("an empty model's name", ["train", "sales.csv", "--name", ""], "cannot name a model"),
    ("a kind without a column", ["train", "sales.csv", "--name", "x", "--kind", "weight"], "--kind"),
    ("a kind that is not there", ["train", "sales.csv", "--name", "x", "--kind", "weight=fancy"], "fancy"),
    ("a kind of a column that is not there", ["train", "sales.csv", "--name", "x", "--kind", "wieght=real"], 'the nearest name here is "weight"'),
    ("a preset that is not there", ["train", "sales.csv", "--name", "x", "--preset", "best"], "best"),
    ("a key that is not there", ["train", "sales.csv", "--name", "x", "--id", "salt"], 'the nearest name here is "sale". The columns here are sale, hour, weight, price, kind, card.'),
    ("a device that is not there", ["train", "sales.csv", "--name", "x", "--device", "tpu"], "Say auto, cpu or cuda"),
    ("a member that no model has", ["score", "sales.csv", "--model", MODEL, "--members", "vae,kernl"], 'there is no member "kernl"; the nearest name here is "kernel"'),
    ("a device to score on that is not there", ["score", "sales.csv", "--model", MODEL, "--device", "tpu"], "Say auto, cpu or cuda"),
    ("no steps", ["train", "sales.csv", "--name", "x", "--steps", "0"], "greater than or equal to 1"),
    ("a learning rate that diverges", ["train", "sales.csv", "--name", "x", "--learning-rate", "1e30", "--steps", "50"], "Try a lower learning rate"),
    ("a latent space without dimensions", ["train", "sales.csv", "--name", "x", "--latent", "0"], "greater than or equal to 1"),
    ("a likelihood that is not there", ["train", "sales.csv", "--name", "x", "--likelihood", "cauchy"], "cauchy"),
    ("a time column that is none", ["train", "sales.csv", "--name", "x", "--time", "price"], "Write times as ISO 8601"),
    ("an encoding that is not there", ["ingest", "sales.csv", "--encoding", "klingon"], "Say utf-8, latin-1"),
    ("a type that is not there", ["ingest", "sales.csv", "--type", "price=decimal"], "decimal"),
    ("two characters between columns", ["ingest", "sales.csv", "--delimiter", "ab"], "Take one character"),
    ("a dataset's name that leads elsewhere", ["ingest", "sales.csv", "--dataset", "../x"], "cannot"),
    ("a folder that is no report", ["report", "."], "is not a published report"),
    ("a page's file without a page", ["report", ".", "--output", "x.html"], "Add --html"),
    ("a page as CSV", ["report", ".", "--html", "--csv"], "two outputs"),
    ("feedback on a dataset that is not there", ["feedback", "list", "--dataset", "sails"], 'the nearest name here is "sales". There are: '),
    ("a comparison's ending that is not written", ["diff", ".", ".", "--output", "x.csv"], "End it in .parquet"),
    ("reasons from a folder that is no report", ["explain", "{folder}", "s9999"], "is not a published report"),
    ("an ending that is not written", ["generate", "--model", MODEL, "--n", "3", "--output", "{folder}/x.xlsx"], "End it in .parquet or .csv"),
    ("no records to make", ["generate", "--model", MODEL, "--n", "0", "--output", "{folder}/x.csv"], "greater than or equal to 1"),
    ("an image to be near to, of a table", ["generate", "--model", MODEL, "--n", "1", "--output", "{folder}/x.csv", "--like", "a.png"], "only an image"),
    ("a schedule and no server", ["deploy", "sales.csv", "--model", MODEL, "--every", "1h"], "prefect server start"),
    ("no schedule", ["deploy", "sales.csv", "--model", MODEL], "--every"),
    ("two schedules", ["deploy", "sales.csv", "--model", MODEL, "--every", "1h", "--cron", "* * * * *"], "one of --every and --cron"),
    ("a length of time that is none", ["deploy", "sales.csv", "--model", MODEL, "--every", "soon"], "not a length of time"),
    ("a cron expression that is none", ["deploy", "sales.csv", "--model", MODEL, "--cron", "every hour"], "not a schedule"),
    ("a cron expression of chance", ["deploy", "sales.csv", "--model", MODEL, "--cron", "R 3 * * *"], "fires by chance"),
    ("data without a model to deploy", ["deploy", "sales.csv", "--every", "1h"], "Give --model"),
    ("data in place of a dataset file", ["deploy", "sales.csv", "--yaml"], "Give a file that ends in .toml"),
    ("the same with a model and a schedule", ["deploy", "sales.csv", "--model", MODEL, "--every", "1h", "--yaml"], "sales.csv: --yaml prints the deployments of a dataset file"),
    ("a promotion of a model that is not there", ["models", "promote", "ship"], "ship"),
    ("a rollback without a version before", ["models", "rollback", "shop"], "previous"),
    ("checks that nobody asked for", ["models", "checks", "shop", "--version", "1"], "elborank models promote shop"),
    ("a store of another kind", ["score", "ftp://bucket/x", "--model", MODEL], "Write s3://BUCKET/PREFIX"),
    ("a store's address with a key in it", ["score", "s3://key:word@bucket/x", "--model", MODEL], "keys belong into the environment"),
    ("a store's address that climbs", ["score", "s3://bucket/../x", "--model", MODEL], "is no address of a store"),
    ("generated records in a store of another kind", ["generate", "--model", MODEL, "--n", "3", "--output", "gs://bucket/x.csv"], "Write s3://BUCKET/PREFIX, or a path of this machine"),
    ("generated records in a bucket without a name", ["generate", "--model", MODEL, "--n", "3", "--output", "s3://bucket.csv"], "is a bucket, not a file in one"),
    ("scheduled reports in a store of another kind", ["deploy", "sales.csv", "--model", MODEL, "--every", "1h", "--output", "gs://bucket/x"], "Write s3://BUCKET/PREFIX"),
    ("datasets in a store", ["ingest", "sales.csv", "--store", "s3://bucket/x"], "--store takes a folder of this machine, no address"),
    ("a dataset file in a store", ["deploy", "s3://bucket/a.toml"], "a dataset file is read from this machine"),
    ("a backfill by a dataset file in a store", ["backfill", "s3://bucket/a.toml", "--from", "2024-01-01", "--to", "2024-02-01"], "a dataset file is read from this machine"),
    ("a backfill that ends before it begins", ["backfill", "{folder}/a.toml", "--from", "2024-02-01", "--to", "2024-01-01"], "Give a later --until"),
    ("a backfill from before the year 1", ["backfill", "{folder}/a.toml", "--from", "0001-01-01T00:00:00+14:00", "--to", "2024-01-01"], "is no time in UTC"),
    ("a backfill shorter than an interval", ["backfill", "{folder}/a.toml", "--from", "2024-01-01T00:10", "--to", "2024-01-01T00:20"], "no whole interval"),
    ("a backfill of more than 100,000 intervals", ["backfill", "{folder}/a.toml", "--from", "1970-01-01", "--to", "2024-01-01"], "Backfill in pieces"),
    ("a backfill of the future", ["backfill", "{folder}/a.toml", "--from", "2999-01-01", "--to", "2999-01-02"], "lies more than a year ahead"),
]  # fmt: skip
TOO_LITTLE = [
    (
        "a table of a single record",
        b"a,b\n1.5,2\n",
        "a single record (1 sample): it cannot tell what is usual",
    ),
]
GOOD_FILE = b'name = "a"\nsource = "x.csv"\ntime = "hour"\n[score]\nevery = "1h"\n'

# ------------------------------------------------------------------------------- dataset files

DATASET_FILES = [
    ("no TOML", "name = ", "is not TOML"),
    ("no UTF-8", b"name = '\xff'", "is not UTF-8 text"),
    ("no name", 'source = "x"\n[score]', 'the key "name" is missing'),
    ("no source", 'name = "a"\n[score]', 'the key "source" is missing'),
    ("a misspelt key", 'nam = "a"\nname = "a"\nsource = "x"\n[score]', 'no key "nam"'),
    ("a misspelt key of a table", 'name = "a"\nsource = "x"\n[score]\nevry = "1h"', 'no key "score.evry"'),
    ("nothing to run", 'name = "a"\nsource = "x"', "nothing to run"),
    ("a name with a space", 'name = "a b"\nsource = "x"\n[score]', "cannot name a model"),
    ("a name that ends in a dash", 'name = "a-"\nsource = "x"\n[score]', "cannot be the name of a dataset"),
    ("a name that is too long", f'name = "{"a" * 101}"\nsource = "x"\n[score]', "cannot be the name of a dataset"),
    ("a name that climbs", 'name = "../a"\nsource = "x"\n[score]', "cannot name a model"),
    ("intervals without a time column", 'name = "a"\nsource = "x"\n[score]\nevery = "1h"', "score.only_interval needs"),
    ("a window without a time column", 'name = "a"\nsource = "x"\n[train]\nwindow = "7d"', "train.window needs"),
    ("two ways of flagging", 'name = "a"\nsource = "x"\n[score]\nfdr = 0.1\ntop_k = 3', "one of fdr, alpha and top_k"),
    ("a rate above 1", 'name = "a"\nsource = "x"\n[score]\nfdr = 3', "score.fdr"),
    ("a length of time that is none", 'name = "a"\nsource = "x"\ntime = "t"\n[score]\nevery = "soon"', "not a length of time"),
    ("a delay that is none", 'name = "a"\nsource = "x"\ntime = "t"\n[score]\nevery = "1h"\ndelay = "10min"', 'score: delay "10min" is not a length of time'),
    ("a window that is none", 'name = "a"\nsource = "x"\ntime = "t"\n[train]\nwindow = "a week"', 'train.window: "a week" is not a length of time'),
    ("a delay and no schedule", 'name = "a"\nsource = "x"\ntime = "t"\n[score]\ndelay = "1h"', "score: a schedule is one of every and cron"),
    ("a delay of more than a century", 'name = "a"\nsource = "x"\ntime = "t"\n[score]\nevery = "1h"\ndelay = "9999999d"', "longer than a century"),
    ("two schedules", 'name = "a"\nsource = "x"\ntime = "t"\n[score]\nevery = "1h"\ncron = "* * * * *"', "one of"),
    ("a cron expression that is none", 'name = "a"\nsource = "x"\ntime = "t"\n[score]\ncron = "soon"', "not a schedule"),
    ("a cron expression of chance", 'name = "a"\nsource = "x"\ntime = "t"\n[score]\ncron = "R(0-30) * * * *"', "fires by chance"),
    ("a zone that is not there", 'name = "a"\nsource = "x"\ntime = "t"\n[score]\ncron = "0 * * * *"\ntimezone = "Mars/X"', "not a time zone"),
    ("a container without an image", 'name = "a"\nsource = "x"\n[score]\n[deploy]\ntype = "docker"', "image"),
    ("an image without a container", 'name = "a"\nsource = "x"\n[score]\n[deploy]\nimage = "x"', "image"),
    ("a pool of another kind", 'name = "a"\nsource = "x"\n[score]\n[deploy]\ntype = "moon"', "deploy.type"),
    ("nobody to tell", 'name = "a"\nsource = "x"\n[score]\n[notify]\n', "one of webhook and webhook_file"),
    ("an occasion that is none", 'name = "a"\nsource = "x"\n[score]\n[notify]\nwebhook = "http://x"\non = ["rain"]', "notify.on"),
    ("generation without a number", 'name = "a"\nsource = "x"\n[generate]\n', 'the key "generate.n" is missing'),
    ("generation into a store of another kind", 'name = "a"\nsource = "x"\n[generate]\nn = 3\noutput = "gs://b/x.csv"', 'generate.output: there is no way to a store by "gs://"'),
    ("generation into a bucket without a name", 'name = "a"\nsource = "x"\n[generate]\nn = 3\noutput = "s3://bucket"', "is a bucket, not a file in one"),
    ("a training setting that is none", 'name = "a"\nsource = "x"\n[train]\nsettings = {stepz = 10}', 'train.settings: there is no training setting stepz'),
    ("a training setting out of its range", 'name = "a"\nsource = "x"\n[train]\nsettings = {steps = -5}', 'train.settings: steps must be'),
    ("a member to score by that is none", 'name = "a"\nsource = "x"\n[score]\nmembers = "vae,"', 'score.members: there is no member ""'),
    ("a kind that is none", 'name = "a"\nsource = "x"\n[train]\nkinds = {a = "fancy"}', '"fancy" is not a kind'),
    ("an encoding that is none", 'name = "a"\nsource = "x"\nencoding = "klingon"\n[score]', 'encoding: there is no text encoding "klingon"'),
    ("a delimiter of two characters", 'name = "a"\nsource = "x"\ndelimiter = ";;"\n[score]', "delimiter: ';;' cannot separate columns"),
    ("a model's address that is none", 'name = "a"\nsource = "x"\nmodel = "models:/x y@@"\n[score]', 'model: "models:/x y@@" is not the address of a model'),
    ("a message to no web address", 'name = "a"\nsource = "x"\n[score]\n[notify]\nwebhook = "ftp://x"', 'notify.webhook: the webhook is no http address'),
    ("generation into a text file", 'name = "a"\nsource = "x"\n[generate]\nn = 1\noutput = "x.txt"', 'generate.output: x.txt is neither Parquet nor CSV by its name'),
    ("a pool without a name", 'name = "a"\nsource = "x"\n[score]\n[deploy]\npool = ""', 'deploy.pool: is empty'),
    ("a pool whose name Prefect keeps for itself", 'name = "a"\nsource = "x"\n[score]\n[deploy]\npool = "Prefect-1"', 'deploy.pool: "Prefect-1" cannot be the name'),
    ("an empty source", 'name = "a"\nsource = ""\n[score]', 'source: is empty'),
    ("a text where a number belongs", 'name = "a"\nsource = "x"\n[score]\nworkers = "many"', "score.workers"),
]  # fmt: skip

# ------------------------------------------------------------------------------- images

SMALL = ["--size", "8"]
IMAGES: list[tuple[str, dict[str, bytes], list[str], str]] = [
    ("a folder of texts named PNG", {"a.png": b"text", "b.png": b"text"}, [], "no image can be read"),
    ("an empty image", {"a.png": b""}, [], "no image can be read"),
    ("an array of one dimension", {"a.npy": npy(np.zeros(5, np.uint8))}, [], "holds an array"),
    ("an array of two dimensions", {"a.npy": npy(np.zeros((5, 3), np.uint8))}, [], "holds an array 5x3"),
    ("an array of Python objects", {"a.npy": npy(np.array([{}], object))}, [], "holds Python objects, which are not read"),
    ("an array of texts", {"a.npy": npy(np.full((2, 8, 8), "x"))}, [], "whose white is unknown"),
    ("images without pixels", {"a.npy": npy(np.zeros((2, 0, 8), np.uint8))}, [], "its images have no pixels"),
    ("an array stored column by column", {"a.npy": npy(np.asfortranarray(np.zeros((4, 8, 8), np.uint8)))}, [], "column by column"),
    ("several arrays in one file", {"a.npz": npz(a=np.zeros((2, 8, 8), np.uint8), b=np.zeros((2, 8, 8), np.uint8))}, [], "several arrays"),
    ("an archive that is none", {"a.npz": b"PK\x03\x04"}, [], "no image can be read"),
    ("images and arrays together", {"a.png": png(), "b.npy": npy(np.zeros((2, 8, 8), np.uint8))}, ["--size", "8"], "Choose by a glob"),
    ("image files with a key column", {"a.png": png()}, ["--id", "x", *SMALL], "the file's name is the key"),
    ("a size that is none", {"a.png": png()}, ["--size", "large"], "Write 64, or 64x32"),
    ("a colour that is none", {"a.png": png()}, ["--colour", "sepia", *SMALL], "sepia"),
]  # fmt: skip

# ------------------------------------------------------------------------------- models and reports


def of_model(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """A copy of the shop's model in the folder `model`, changed."""

    def make(folder: Path) -> None:
        import shutil

        from flows import registry

        shutil.copytree(registry.resolve(MODEL).folder, folder / "model")
        change(folder / "model")

    return make


def of_report(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """The shop's report, changed, in the folder `report`."""

    def make(folder: Path) -> None:
        from flows.cli import main

        assert main([*shop.SCORE, "--output", str(folder / "out"), "--json"]) == 0
        made = next((folder / "out").glob("*/run=*"))
        made.rename(folder / "report")
        change(folder / "report")

    return make


def flip(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return change


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-9]) and None


def lose(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def resealed(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """Changed by somebody who knows how to make the manifest fit."""

    def make(folder: Path) -> None:
        from tests.bench.bad_models import reseal

        change(folder)
        reseal(folder)

    return make


def newer(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))


DAMAGED = "does not match its sha256 in the manifest: the file is damaged"
UNREADABLE = "is not a model that this elborank can read"
MODELS = [
    *((f"one flipped bit in {name}", flip(name), DAMAGED) for name in ("weights.safetensors", "model.json", "encoding.json")),
    *((f"{name} cut off", cut(name), DAMAGED) for name in ("weights.safetensors", "calibration.json", "profile.json")),
    *((f"{name} lost", lose(name), "is missing from the model folder") for name in ("weights.safetensors", "model.json")),
    ("no manifest", lose("manifest.json"), "neither the address of a model nor a model's folder"),
    ("a manifest that is no JSON", write("manifest.json", "{"), "the manifest is damaged"),
    ("a manifest of another shape", write("manifest.json", "[]"), "the manifest is damaged"),
    ("a newer format", newer, "Install the release that wrote it"),
    ("a consistent folder with an empty model.json", resealed(write("model.json", "{}")), UNREADABLE),
    ("a consistent folder whose encoding is a list", resealed(write("encoding.json", "[]")), UNREADABLE),
    ("a consistent folder with a pickle for weights", resealed(write("weights.safetensors", "cos\nsystem\n(S'id'\ntR.")), UNREADABLE),
    ("a consistent folder with half its weights", resealed(cut("weights.safetensors")), UNREADABLE),
]  # fmt: skip
CHANGED = "was changed or damaged after publishing"
REPORTS = [
    ("one flipped bit in the report", flip("report.parquet"), CHANGED),
    ("the report cut off", cut("report.parquet"), CHANGED),
    ("the report lost", lose("report.parquet"), "is missing"),
    ("the quarantine lost", lose("quarantine.parquet"), "is missing"),
    ("one flipped bit in the manifest", flip("_manifest.json"), CHANGED),
    ("a manifest that is no JSON", write("_manifest.json", "{"), CHANGED),
    ("a manifest of another shape", write("_manifest.json", "[]"), CHANGED),
    ("no manifest", lose("_manifest.json"), "is not a published report"),
]


def table() -> list[Bad]:
    """All bad inputs but the raw tables."""
    made = [Bad("What is typed", n, c, said, files={"a.toml": GOOD_FILE}) for n, c, said in TYPED]
    train = ["train", "{folder}/few.csv", "--name", "few"]
    made += [Bad("What is typed", n, train, said, files={"few.csv": text}) for n, text, said in TOO_LITTLE]
    made += [
        Bad("Dataset files", name, ["deploy", "{folder}/d.toml"], said,
            files={"d.toml": text if isinstance(text, bytes) else text.encode()})
        for name, text, said in DATASET_FILES
    ]  # fmt: skip
    made += [
        Bad("Images", name, ["ingest", "{folder}", "--store", "{folder}/store", *options], said, files=files)
        for name, files, options, said in IMAGES
    ]
    made += [
        Bad("Model folders", name, ["score", "sales.csv", "--model", "{folder}/model", "--output", "{folder}/out"],
            said, make=of_model(change))
        for name, change, said in MODELS
    ]  # fmt: skip
    made += [
        Bad("Reports", name, ["report", "{folder}/report"], said, make=of_report(c))
        for name, c, said in REPORTS
    ]
    return made


def raw_tables() -> list[tuple[str, str, str]]:
    """Those of docs/input.md that are refused or go to quarantine: name, outcome, what is said."""
    from tests.test_input import rows_of_the_table

    return [
        (name, what, said) for name, what, said in rows_of_the_table() if what in ("refused", "quarantined")
    ]


HEAD = """# Bad inputs

What elborank does with {count} bad inputs. **Refused** means: one line on standard error that names the place and says
what to do, exit code 2, nothing written. **Quarantined** means: the row goes to `quarantine.parquet` with its file,
number, column, reason and text; the others are ranked. An option out of its range or misspelt (`--steps 0`, `--modle`),
or a command that is not there, shows the usage and the error in a box instead of one line. Made by `python -m tests.bad_inputs`; a test runs every row.

| Input | What happens | What is said |
|---|---|---|
"""


def page() -> str:
    """The page, from the table."""
    rows = [(f"Raw tables: {name}", what, said) for name, what, said in raw_tables()]
    rows += [(f"{bad.area}: {bad.name}", "refused", cell(bad.said)) for bad in table()]
    return HEAD.format(count=len(rows)) + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
