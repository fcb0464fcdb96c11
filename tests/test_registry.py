"""The registry: versions, aliases, and what happens when something is not there or not what it was."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flows import promotion, registry, steps, tracking
from tests import shop
from vae_core import storage
from vae_core.errors import InputError, Refused


@pytest.fixture
def model(in_shop: shop.Shop) -> registry.ModelVersion:
    return registry.resolve("models:/shop@champion")


HOME = "a home of models"  # a name that needs care in an address


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that MLflow has just made: making one takes seconds, copying it does not."""
    folder = tmp_path_factory.mktemp("blank")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("ELBORANK_HOME", str(folder / HOME))
        assert registry.list_models() == []
    return folder / HOME / "mlflow.db"


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, blank: Path) -> Path:
    """A registry of its own, empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("ELBORANK_HOME", str(tmp_path / HOME))
    (tmp_path / HOME).mkdir()
    shutil.copy(blank, tmp_path / HOME / "mlflow.db")
    return tmp_path


def register(folder: Path, name: str = "copy", once: str | None = None, **tags: str) -> registry.ModelVersion:
    columns = storage.load(folder).encoding.columns
    example = pd.DataFrame({name: ["x"] for name in columns})
    return registry.register(
        folder,
        name=name,
        sha256=storage.model_digest(folder),
        columns=columns,
        example=example,
        params={"steps": 1},
        history=[{"step": 1, "heldout_elbo": -2.0}, {"step": 2, "heldout_elbo": float("inf")}],
        tags=tags,
        once=once,
    )


def test_the_first_version_is_champion_and_later_ones_challenge(
    model: registry.ModelVersion, empty: Path
) -> None:
    assert [register(model.folder).aliases for _ in range(3)] == [
        ("champion",),
        ("challenger",),
        ("challenger",),
    ]
    assert registry.resolve("models:/copy").version == "1"
    assert registry.resolve("models:/copy@challenger").version == "3"
    assert registry.resolve("models:/copy/2").aliases == ()


def test_promotion_keeps_the_way_back(model: registry.ModelVersion, empty: Path) -> None:
    for _ in range(2):
        register(model.folder)
    assert registry.promote("copy") == {"name": "copy", "champion": "2", "previous": "1", "changed": True}
    assert registry.resolve("models:/copy@previous").version == "1"
    assert registry.promote("copy", "1")["previous"] == "2"
    assert registry.promote("copy", "1")["changed"] is False
    with pytest.raises(InputError, match="challenger"):
        registry.promote("copy")


def test_a_challenger_that_needs_more_columns_is_refused(in_shop: shop.Shop, empty: Path) -> None:
    narrow = shop.sales().drop(columns="card")
    narrow.to_csv(empty / "narrow.csv", index=False)
    shop.sales().to_csv(empty / "wide.csv", index=False)
    for table in ("narrow.csv", "wide.csv"):
        steps.train(table, name="sales", settings={"steps": 5, "members": 1}, ids=["sale"])
    with pytest.raises(Refused, match="needs card, which the champion does not"):
        promotion.promote("sales")
    assert promotion.promote("sales", force=True)["champion"] == "2"


def test_a_resolved_version_does_not_move_with_its_alias(model: registry.ModelVersion, empty: Path) -> None:
    first = register(model.folder)
    chosen = registry.resolve("models:/copy@champion")
    register(model.folder)
    registry.promote("copy")
    assert (chosen.version, chosen.sha256) == (first.version, first.sha256)
    assert chosen.folder != registry.resolve("models:/copy@champion").folder


def test_a_model_that_was_changed_in_the_store_is_not_loaded(
    model: registry.ModelVersion, empty: Path
) -> None:
    stored = register(model.folder)
    manifest = stored.folder / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["model.json"] = "0" * 64
    manifest.write_text(json.dumps(content))
    with pytest.raises(InputError, match="not what was registered"):
        registry.resolve("models:/copy/1")


def test_an_empty_registry_says_how_to_fill_it(empty: Path) -> None:
    assert registry.list_models() == []
    with pytest.raises(InputError, match="elborank train"):
        registry.resolve("models:/anything@champion")


def test_the_store_stands_in_the_working_folder_and_the_environment_stays_as_it_was(
    model: registry.ModelVersion, empty: Path
) -> None:
    register(model.folder)
    assert (empty / HOME / "artifacts").is_dir()
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert not (empty / "mlruns").exists()


def test_another_store_is_obeyed(
    model: registry.ModelVersion, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty / HOME / "mlflow.db", empty / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{empty}/other.db")
    register(model.folder)
    assert len(registry.list_models()) == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert registry.list_models() == []


def test_first_commands_at_once_find_one_whole_registry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("ELBORANK_HOME", str(tmp_path / HOME))
    (tmp_path / HOME).mkdir()
    for left in (".mlflow.db-unfinished", ".mlflow.db-unfinished-journal"):  # by one that was killed
        (tmp_path / HOME / left).write_bytes(b"half of something")
    code = "from flows import tracking\nwith tracking.asked() as m: print(tracking.make_experiment(m))"
    command = [sys.executable, "-c", code]
    folder = Path(__file__).parents[1]
    running = [subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate()[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0] and len(set(said)) == 1, said
    assert {path.name for path in (tmp_path / HOME).iterdir()} == {"mlflow.db"}


def test_a_database_whose_tables_cannot_be_completed_is_one_line(empty: Path) -> None:
    with closing(sqlite3.connect(empty / HOME / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'of a later one'")
        database.execute("DROP TABLE webhooks")
    with pytest.raises(registry.RegistryUnavailable, match="Can't locate revision") as caught:
        registry.list_models()
    assert "\n" not in str(caught.value) and "MLFLOW_TRACKING_URI" in str(caught.value)


def test_a_registry_that_cannot_be_reached_is_one_line_without_its_password(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(registry.RegistryUnavailable, match=r"127\.0\.0\.1") as caught:
        registry.list_models()
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_training_is_found_by_its_tag(model: registry.ModelVersion, empty: Path) -> None:
    register(model.folder, key="a")
    register(model.folder, key="a")
    found = registry.find("copy", "key", "a")
    assert found is not None and found.version == "2"
    assert registry.find("copy", "key", "b") is None
    assert registry.find("other", "key", "a") is None


def test_parameters_curve_and_digest_of_the_data_are_logged(model: registry.ModelVersion) -> None:
    import mlflow

    client = mlflow.MlflowClient(registry.tracking_uri())
    run = client.get_run(client.get_model_version("shop", "1").run_id)
    assert run.data.params["steps"] == "200" and len(run.data.params["dataset_digest"]) >= 12
    curve = client.get_metric_history(run.info.run_id, "heldout_elbo")
    assert len({point.step for point in curve}) > 5
    assert run.data.metrics["train_elbo"] > -1e6


def test_a_model_folder_can_be_used_without_a_registry(model: registry.ModelVersion, tmp_path: Path) -> None:
    shutil.copytree(model.folder, tmp_path / "mine")
    found = registry.resolve(str(tmp_path / "mine"))
    assert (found.name, found.sha256) == ("mine", model.sha256)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a:b", "-x", "x" * 129, "naïve", "a b", "a'b"])
def test_a_name_that_would_not_fit_an_address_is_refused(name: str) -> None:
    with pytest.raises(InputError):
        registry.check_name(name)


@pytest.mark.parametrize(("challenge", "alias"), [(False, "champion"), (True, "challenger")])
def test_a_version_whose_training_died_before_the_alias_gets_it_from_the_same_training_again(
    empty: Path, monkeypatch: pytest.MonkeyPatch, challenge: bool, alias: str
) -> None:
    shop.sales().head(240).to_csv(empty / "sales.csv", index=False)
    what: dict[str, Any] = {"kinds": {}, "settings": {"steps": 5, "members": 1}}
    data = steps.ingest("sales.csv", ids=["sale"])
    fitted = steps.fit(data, empty / "fitted", **what)

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, "_set_alias", dies)
        with pytest.raises(KeyboardInterrupt):
            steps.register(fitted, data, name="sales", challenge=challenge, **what)
    assert [row["aliases"] for row in registry.list_models()] == [[]]
    with pytest.raises(InputError):
        registry.resolve("models:/sales@champion")

    found = steps.trained_before(data, name="sales", challenge=challenge, **what)
    assert found is not None and (found.version, found.aliases) == ("1", (alias,))
    assert registry.give_alias(found) == found  # what has its alias keeps it
    assert [row["aliases"] for row in registry.list_models()] == [[alias]]


def test_runs_of_a_killed_training_are_ended_by_the_same_training_and_no_others(
    model: registry.ModelVersion, empty: Path
) -> None:
    import mlflow

    register(model.folder, training="other")  # makes the experiment
    with tracking.asked():
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name("elborank")
        assert experiment is not None
        runs = {
            who: client.create_run(experiment.experiment_id, tags={"training": who}).info.run_id
            for who in ("this", "that")  # what SIGKILL leaves: nobody ends them
        }
        register(model.folder, once="training", training="this")
        assert {who: client.get_run(run).info.status for who, run in runs.items()} == {
            "this": "KILLED",
            "that": "RUNNING",
        }
        ended = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'")
        assert sorted(run.data.tags["training"] for run in ended) == ["other", "this"]


def test_an_alias_goes_to_the_newest_version_only(model: registry.ModelVersion, empty: Path) -> None:
    for _ in range(3):
        register(model.folder)
    old = registry.resolve("models:/copy/2")  # challenged until version 3 came
    assert registry.give_alias(old).aliases == ()
    assert registry.resolve("models:/copy@challenger").version == "3"
