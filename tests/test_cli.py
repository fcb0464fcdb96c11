"""The command line: what is typed, what comes back, and what a mistake looks like."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import typer

from flows.cli import app, main
from tests import shop


def all_commands() -> list[str]:
    """Every command that there is, those of groups with the group's name before them."""
    group: Any = typer.main.get_command(app)
    return [
        f"{name} {below}".strip()
        for name, found in group.commands.items()
        for below in (found.commands if hasattr(found, "commands") else [""])
    ]


COMMANDS = all_commands()


def run(*arguments: str) -> int:
    return main([str(argument) for argument in arguments])


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """The document that a command with --json prints: standard output holds nothing else."""
    code = run(*arguments, "--json")
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def complaint(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """What standard error says when a command ends with this code: exactly one line."""
    assert run(*arguments) == code
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert captured.out == ""
    return lines[0]


def published(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


# ----------------------------------------------------------------------------------------- the way through


def test_the_way_from_a_file_to_the_reasons_of_its_strangest_record(
    in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scored = run_json(capsys, *shop.SCORE, "--output", str(tmp_path), "--top-k", "3")
    assert scored["top"][0]["record_id"] == shop.STRANGE
    assert (scored["ranked"], scored["flagged"], scored["published"]) == (168, 3, True)
    folder = Path(scored["folder"])
    assert folder.parent == tmp_path / "sales" and folder.name.startswith("run=")
    told = run_json(capsys, "report", str(folder), "--top", "5")
    assert [row["rank"] for row in told["records"]] == [1, 2, 3, 4, 5]
    why = run_json(capsys, "explain", str(folder), shop.STRANGE)
    assert why["rank"] == 1 and why["flagged"]
    assert sum(r["nats"] for r in why["reasons"]) + why["rest_nats"] == pytest.approx(why["bound"])
    assert run("explain", str(folder), shop.STRANGE) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert why["rest_nats"] <= why["tilt_nats"] < -100
    assert "the charge" in shown and "charged for being far out as a whole" in shown


def test_the_same_command_again_publishes_nothing_and_says_so(
    in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*shop.SCORE, "--output", tmp_path) == 0
    before = published(tmp_path)
    capsys.readouterr()
    assert run(*shop.SCORE, "--output", tmp_path) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert published(tmp_path) == before


def test_the_same_training_again_finds_the_registered_version(
    in_shop: shop.Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    again = run_json(capsys, *shop.TRAIN)
    assert (again["version"], again["reused"]) == ("1", True)


def test_another_report_for_the_same_interval_is_refused_unless_replaced(
    in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = [*shop.SCORE, "--output", str(tmp_path), "--as-of", "2024-01-25"]
    first = run_json(capsys, *job, "--top-k", "3")
    assert Path(first["folder"]).name == "as_of=20240125T000000Z"
    assert "--replace" in complaint(capsys, 3, *job, "--top-k", "4")
    second = run_json(capsys, *job, "--top-k", "4", "--replace")
    assert second["flagged"] == 4
    # The place of the interval now leads to the new report; the old one is still there, untouched.
    assert run_json(capsys, "report", first["folder"])["flagged"] == 4
    assert (
        pq.read_table(Path(first["folder"]) / "report.parquet").column("flagged").to_pylist().count(True) == 3
    )


def test_two_workers_and_one_publish_the_same_bytes(in_shop: shop.Shop, tmp_path: Path) -> None:
    assert run(*shop.SCORE, "--output", tmp_path / "one") == 0
    assert run(*shop.SCORE, "--output", tmp_path / "two", "--workers", "2") == 0
    assert published(tmp_path / "one") == published(tmp_path / "two")


def test_an_ingested_dataset_gives_the_report_of_its_raw_file(
    in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = run_json(
        capsys,
        "ingest",
        "sales.csv",
        "--store",
        str(tmp_path / "store"),
        "--id",
        "sale",
        "--from",
        shop.TRAINED_UNTIL,
    )
    assert (data["rows"], data["outside"]) == (168, 576)
    model = ["--model", "models:/shop@champion", "--output", str(tmp_path)]
    scored = run_json(capsys, "score", data["folder"], *model)
    raw = run_json(capsys, *shop.SCORE, "--output", str(tmp_path / "raw"))
    assert scored["top"] == raw["top"]


def test_generate_writes_records_in_the_columns_types_and_categories_of_the_data(
    in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "made.parquet"
    arguments = ["generate", "--model", "models:/shop@champion", "--n", "300", "--output", str(target)]
    made = run_json(capsys, *arguments)
    table = pq.read_table(target).to_pandas()
    assert len(table) == 300
    assert made["not_generated"] == ["sale"]  # the key
    assert set(table["kind"]) <= {"apple", "=pear", "[red]plum[/red]", "other"}
    assert table["card"].dtype == bool
    distances = {row["column"]: row["vae"] for row in made["distances"]}
    assert distances["weight"] < 0.3 and distances["kind"] < 0.2
    assert "--replace" in complaint(capsys, 3, *arguments)


def test_generated_records_are_compared_with_a_peers(
    in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ctgan", reason="in the extra bench")
    arguments = ["--n", "400", "--output", str(tmp_path / "made.parquet"), "--peer"]
    realism = run_json(capsys, "generate", "--model", "models:/shop@champion", *arguments)["realism"]
    assert list(realism) == ["tvae", "vae", "ppca"]
    assert 0.4 < realism["vae"] < realism["tvae"] <= 1


def test_without_the_peers_package_one_line_says_where_it_is(
    in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ctgan", None)
    arguments = ["--n", "40", "--output", str(tmp_path / "made.parquet"), "--peer"]
    assert "elborank[bench]" in complaint(
        capsys, 2, "generate", "--model", "models:/shop@champion", *arguments
    )
    assert not (tmp_path / "made.parquet").exists()


def test_generated_csv_holds_no_formula_for_a_spreadsheet(
    in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "made.csv"
    assert (
        run("generate", "--model", "models:/shop@champion", "--n", "100", "--output", target, "--seed", "3")
        == 0
    )
    rows = list(csv.DictReader(target.open()))
    assert len(rows) == 100
    assert {row["kind"] for row in rows} <= {"apple", "'=pear", "[red]plum[/red]", "other"}
    assert pd.to_datetime([row["hour"] for row in rows], format="%Y-%m-%dT%H:%M:%SZ").notna().all()
    told = " ".join(capsys.readouterr().out.split())
    assert "begins with an apostrophe in this CSV file, in kind; a .parquet file has it as it is" in told
    whole = target.with_suffix(".parquet")
    made = run_json(
        capsys, "generate", "--model", "models:/shop@champion", "--n", 100, "--output", whole, "--seed", 3
    )
    assert made["guarded"] == [] and "=pear" in pd.read_parquet(whole)["kind"].tolist()


def test_a_better_model_is_promoted_and_the_old_one_can_be_found(
    in_shop: shop.Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ELBORANK_HOME", str(tmp_path / "home"))
    for seed in ("1", "2"):
        run_json(capsys, *shop.TRAIN[:-2], "--steps", "20", "--seed", seed)
    assert [m["aliases"] for m in run_json(capsys, "models", "list")["models"]] == [
        ["challenger"],
        ["champion"],
    ]
    assert run_json(capsys, "models", "promote", "shop")["changed"]
    assert [m["aliases"] for m in run_json(capsys, "models", "list")["models"]] == [
        ["champion"],
        ["previous"],
    ]
    assert not run_json(capsys, "models", "promote", "shop", "--version", "2")["changed"]


# ----------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "nowhere.csv", "--model", "models:/shop@champion"], "nowhere.csv"),
        (["score", "sales.csv", "--model", "models:/ship@champion"], "models:/shop@champion"),
        (["score", "sales.csv", "--model", "no/such/folder"], "models:/shop@champion"),
        (["score", "sales.csv", "--model", "models:/shop/9"], "models:/shop@champion"),
        ([*shop.SCORE, "--fdr", "0.1", "--alpha", "0.1"], "fdr and alpha"),
        ([*shop.SCORE, "--members", "nobody"], "nobody"),
        ([*shop.SCORE, "--as-of", "yesterday"], "yesterday"),
        ([*shop.SCORE, "--until", "2024-01-02"], "interval"),
        (["train", "sales.csv", "--name", "../x"], "cannot name a model"),
        (["train", "sales.csv", "--name", "x", "--kind", "weight"], "--kind"),
        (["train", "sales.csv", "--name", "x", "--kind", "nothing=real"], "nothing"),
        (["train", "sales.csv", "--name", "x", "--preset", "best"], "best"),
        (["train", "sales.csv", "--name", "x", "--id", "salt"], "salt"),
        (["train", "sales.csv", "--name", "x", "--device", "tpu"], "tpu"),
        (["train", "sales.csv", "--name", "x", "--learning-rate", "1e30", "--steps", "50"], "not finite"),
        (["ingest", "sales.csv", "--encoding", "klingon"], "klingon"),
        (["ingest", "sales.csv", "--type", "price=decimal"], "decimal"),
        (["report", "."], "report"),
        (["generate", "--model", "models:/shop@champion", "--n", "3", "--output", "x.xlsx"], "x.xlsx"),
        (["deploy", "sales.csv", "--model", "models:/shop", "--every", "1h"], "prefect server start"),
        (["deploy", "sales.csv", "--model", "models:/shop@champion"], "--every"),
        (["deploy", "sales.toml", "--workers", "4"], "takes no --workers"),
        (["deploy", "sales.toml", "--only-interval", "--output", "x"], "takes no --only-interval, --output"),
        (["deploy", "sales.toml", "--encoding", "latin-1", "--delimiter", ";"], "no --delimiter, --encoding"),
        (["deploy", "sales.toml", "--null-values", "NA"], "takes no --null-values"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(
    in_shop: shop.Shop, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert words in complaint(capsys, 2, *arguments)


@pytest.mark.parametrize(
    "words", [["train", "sales.csv", "--name", "x", "--id", "salt"], [*shop.SCORE, "--fdr", "7"]]
)
def test_into_a_file_a_mistake_is_one_line_and_no_more(in_shop: shop.Shop, words: list[str]) -> None:
    code = f"import sys; from flows.cli import main; sys.exit(main({words}))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=in_shop.folder)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("elborank: ") and ended.stderr.count("\n") == 1, ended.stderr


def test_into_a_file_what_went_well_leaves_standard_error_empty(in_shop: shop.Shop, tmp_path: Path) -> None:
    words = ["train", str(in_shop.folder / "sales.csv"), "--name", "x", "--id", "sale", "--steps", "20"]
    code = f"import sys; from flows.cli import main; sys.exit(main({words}))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_missing_column_names_the_column_and_leaves_nothing_behind(
    in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.sales().drop(columns="price").to_csv(tmp_path / "sales.csv", index=False)
    line = complaint(
        capsys,
        2,
        "score",
        tmp_path / "sales.csv",
        "--model",
        "models:/shop@champion",
        "--output",
        tmp_path / "out",
    )
    assert "price" in line
    assert not (tmp_path / "out").exists()


def test_what_is_in_quarantine_is_shown_with_its_reason_and_counted(
    in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = shop.sales().astype({"price": object})
    frame.loc[[3, 5, 7, 9], "price"] = "[b]cheap[/b]"
    frame.to_csv(tmp_path / "sales.csv", index=False)
    arguments = ["score", tmp_path / "sales.csv", "--model", "models:/shop@champion", "--output", tmp_path]
    assert run(*arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{shop.ROWS - 4} records ranked" in shown and "4 in quarantine" in shown
    assert 'sales.csv, column "price", row 4: "[b]cheap[/b]" is not a number' in shown
    assert "and 1 more" in shown


def test_other_encodings_and_separators_are_read_when_named(
    in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = shop.sales().replace({"kind": {"apple": "pêche"}})
    frame.to_csv(tmp_path / "sales.csv", index=False, encoding="latin-1", sep=";")
    arguments = ["ingest", tmp_path / "sales.csv", "--store", tmp_path, "--delimiter", ";"]
    assert "--encoding latin-1" in complaint(capsys, 2, *arguments)
    assert run_json(capsys, *arguments, "--encoding", "latin-1")["rows"] == shop.ROWS


def test_an_output_that_cannot_be_written_is_one_line(
    in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("here is a file, not a folder")
    assert str(tmp_path) in complaint(capsys, 2, *shop.SCORE, "--output", tmp_path / "file")
    where = tmp_path / "file" / "made.csv"
    line = complaint(capsys, 2, "generate", "--model", "models:/shop@champion", "--n", "3", "--output", where)
    assert str(where.parent) in line


def test_a_file_size_limit_is_one_line_and_no_half_report_stays(in_shop: shop.Shop, tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from flows.cli import main;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "import vae_core.job, vae_core.storage, mlflow;"  # what MLflow itself writes is none of our business
        "from flows import registry; registry.resolve('models:/shop@champion');"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); sys.exit(main(sys.argv[1:]))"
    )
    again = subprocess.run(
        [sys.executable, "-c", code, *shop.SCORE, "--output", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 2, again.stderr
    assert "Traceback" not in again.stderr
    assert not list(tmp_path.glob("**/report.parquet"))


def test_text_of_the_user_is_shown_and_not_obeyed(
    in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = shop.sales().tail(50).reset_index(drop=True)
    frame.loc[0, ["sale", "price"]] = ["=1+cmd", 500.0]
    frame.loc[1, ["sale", "price"]] = ["[red]x[/red]\x1b[2J:smile:", 400.0]
    frame.to_csv(tmp_path / "sales.csv", index=False)
    run_json(
        capsys, "score", tmp_path / "sales.csv", "--model", "models:/shop@champion", "--output", tmp_path
    )
    folder = str(next((tmp_path / "sales").glob("run=*")))
    assert run("report", folder, "--top", "2") == 0
    shown = capsys.readouterr().out.replace("\n", "")
    assert "\x1b[2J" not in shown
    assert "[red]x[/" in shown and ":smile:" in shown.replace(" ", "")
    assert run("report", folder, "--top", "2", "--csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[0]["record_id"] == "'=1+cmd"
    assert float(rows[0]["bound"]) < 0


# ----------------------------------------------------------------------------------------- help


def options_of(command: str) -> list[Any]:
    group: Any = typer.main.get_command(app)
    for name in command.split():
        group = group.commands[name]
    return list(group.params)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_help_text(command: str) -> None:
    without = [p.name for p in options_of(command) if not getattr(p, "help", None)]
    assert without == []


def test_the_commands_that_the_pages_tell_of_are_there() -> None:
    known = {"ingest", "train", "score", "report", "explain", "generate", "deploy", "backfill", "drift"}
    assert known | {f"models {name}" for name in ("list", "promote", "rollback", "checks")} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_json_on_request(command: str) -> None:
    assert "--json" in [flag for p in options_of(command) for flag in p.opts]
