"""Models in the registry: with `tracking` the only file that knows MLflow.

A trained model becomes a version of a registered model: its folder (JSON and safetensors, see
`vae_core.storage`) inside an MLflow pyfunc logged from code, with the library's own source beside it, so
that it loads wherever the listed requirements are installed. Aliases say what a version is for: `champion`
is what scheduled runs use, `challenger` waits for promotion, `previous` is the way back.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows.tracking import (
    MODEL_FOLDER,
    RegistryUnavailable,
    asked,
    end_killed,
    home,
    log_metrics,
    log_pyfunc,
    make_experiment,
    parameter,
    registry_place,
    tracking_uri,
    unless_there,
)  # fmt: skip
from vae_core.errors import InputError, one_line

__all__ = [
    "ADDRESS",
    "CHALLENGER",
    "CHAMPION",
    "PREVIOUS",
    "ModelVersion",
    "RegistryUnavailable",
    "champion",
    "check_name",
    "find",
    "give_alias",
    "home",
    "list_models",
    "log_decision",
    "number_of",
    "promote",
    "read_decision",
    "register",
    "registry_place",
    "resolve",
    "rollback",
    "tracking_uri",
]

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
DECISION = "promotion.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))?/?")


@dataclass(frozen=True)
class ModelVersion:
    """One version of one model, found once: later moves of an alias do not change it."""

    name: str
    version: str
    folder: Path
    sha256: str
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict, repr=False)


def register(
    folder: Path,
    *,
    name: str,
    sha256: str,
    columns: Mapping[str, str],
    example: Any,
    params: Mapping[str, Any],
    history: list[dict[str, float]] = [],  # noqa: B006 - never changed
    pictures: Path | None = None,
    card: str | None = None,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    once: str | None = None,
    challenge: bool = False,
) -> ModelVersion:
    """Log a model folder and make it the next version of `name`: champion if there is none, else challenger.
    With `challenge` even the first one has to be promoted. `once` names the tag whose value no two trainings
    share: runs that still say RUNNING under it were killed, and are ended.

    `pictures` is a folder of PNG files to show beside the curve, `card` the model card as a page. `columns`
    are the names and types that `predict` takes, `example` a pandas frame of a few such records.
    """
    check_name(name)
    with asked() as mlflow:
        experiment = make_experiment(mlflow)
        if once is not None:
            end_killed(mlflow, experiment, once, (tags or {})[once])
        with mlflow.start_run(run_name=name, tags=dict(tags or {})) as run:
            mlflow.log_params({key: parameter(value) for key, value in params.items()})
            log_metrics(mlflow, run.info.run_id, history, metrics or {})
            info = log_pyfunc(mlflow, folder, columns, example)
            if pictures is not None and pictures.is_dir():  # of training, in the order of its steps
                mlflow.log_artifacts(str(pictures), "images")
            if card is not None:
                mlflow.log_text(card, "model_card.html")
        client = mlflow.MlflowClient()
        if not client.search_registered_models(f"name = '{name}'"):
            with unless_there(mlflow):
                client.create_registered_model(name)
        made = client.create_model_version(
            name,
            info.model_uri,
            run.info.run_id,
            tags={**(tags or {}), "sha256": sha256},
            model_id=info.model_id,
        )
        number = str(made.version)
        _set_alias(client, name, number, challenge=challenge)
    return resolve(f"models:/{name}/{number}")


def give_alias(version: ModelVersion, *, challenge: bool = False) -> ModelVersion:
    """Give the newest version the alias that `register` gives, if its run died between the two."""
    if version.aliases:
        return version
    with asked() as mlflow:
        client = mlflow.MlflowClient()
        versions = client.search_model_versions(f"name = '{version.name}'")
        if max(int(v.version) for v in versions) == int(version.version):
            _set_alias(client, version.name, version.version, challenge=challenge)
    return resolve(f"models:/{version.name}/{version.version}")


def _set_alias(client: Any, name: str, number: str, *, challenge: bool) -> None:
    alias = CHALLENGER if challenge or CHAMPION in client.get_registered_model(name).aliases else CHAMPION
    client.set_registered_model_alias(name, alias, number)


def resolve(uri: str) -> ModelVersion:
    """The version that `models:/name@alias`, `models:/name/3` or `models:/name` (its champion) means now.

    A path to a model folder is taken as it is, its version being its own hash. What is found is verified
    against the hash noted when it was registered.
    """
    if not uri.startswith("models:"):
        return _from_folder(uri)
    match = ADDRESS.fullmatch(uri)
    if match is None:
        raise InputError(
            f'"{one_line(uri)}" is not the address of a model',
            fix="Write models:/NAME@champion or models:/NAME/VERSION",
        )
    with asked() as mlflow:
        found = _find_version(mlflow, uri, match["name"], match["alias"], match["version"])
        folder = _local_folder(mlflow, found)
        sha256 = found.tags.get("sha256", "")
        digest = _digest(folder)
        if sha256 and digest != sha256:
            raise InputError(
                f"{one_line(uri)} is not what was registered: its hash is {digest[:12]}, not {sha256[:12]}",
                fix="Restore the registry's artifacts, or train and register the model again",
            )
        return ModelVersion(
            found.name, str(found.version), folder, digest, tuple(sorted(found.aliases)), dict(found.tags)
        )


def find(name: str, tag: str, value: str) -> ModelVersion | None:
    """The newest version of `name` that carries this tag, or None."""
    check_name(name)
    with asked() as mlflow:
        versions = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
        numbers = [int(v.version) for v in versions if v.tags.get(tag) == value]
    return resolve(f"models:/{name}/{max(numbers)}") if numbers else None


def list_models() -> list[dict[str, Any]]:
    """All registered versions, newest first within each name, as plain values."""
    with asked() as mlflow:
        client = mlflow.MlflowClient()
        rows = []
        for model in sorted(client.search_registered_models(), key=lambda m: m.name):
            # Only this lookup knows the aliases of each version in every store.
            names = {
                alias: str(number)
                for alias, number in client.get_registered_model(model.name).aliases.items()
            }
            versions = client.search_model_versions(f"name = '{model.name}'")
            for found in sorted(versions, key=lambda v: -int(v.version)):
                aliases = sorted(a for a, number in names.items() if number == str(found.version))
                rows.append(_row(found, aliases))
        return rows


def promote(name: str, version: str | None = None) -> dict[str, Any]:
    """Make a version (the challenger, unless one is named) the champion; the one of before becomes
    `previous`. Promoting the champion changes nothing. Whether it should be: `flows.promotion`.
    """
    uri = f"models:/{name}/{version}" if version else f"models:/{name}@{CHALLENGER}"
    chosen = resolve(uri)
    with asked() as mlflow:
        client = mlflow.MlflowClient()
        aliases = {a: str(n) for a, n in client.get_registered_model(chosen.name).aliases.items()}
        before = aliases.get(CHAMPION)
        if before == chosen.version:
            return {
                "name": name,
                "champion": chosen.version,
                "previous": aliases.get(PREVIOUS),
                "changed": False,
            }
        if before is not None:  # first, so that the way back is there whenever the champion has changed
            client.set_registered_model_alias(name, PREVIOUS, before)
        client.set_registered_model_alias(name, CHAMPION, chosen.version)
        if aliases.get(CHALLENGER) == chosen.version:
            client.delete_registered_model_alias(name, CHALLENGER)
    return {"name": name, "champion": chosen.version, "previous": before, "changed": True}


def rollback(name: str) -> dict[str, Any]:
    """Make `previous` the champion again, and the champion of now `previous`: seconds, and no check."""
    check_name(name)
    back = resolve(f"models:/{name}@{PREVIOUS}")
    with asked() as mlflow:
        client = mlflow.MlflowClient()
        now = str(client.get_model_version_by_alias(name, CHAMPION).version)
        client.set_registered_model_alias(name, CHAMPION, back.version)
        if now != back.version:  # killed between the two, the same command changes nothing and says so
            client.set_registered_model_alias(name, PREVIOUS, now)
    return {"name": name, "champion": back.version, "previous": now, "changed": now != back.version}


def champion(name: str) -> ModelVersion | None:
    """The champion of a model; None where there is none."""
    check_name(name)
    with asked() as mlflow:
        aliases = mlflow.MlflowClient().get_registered_model(name).aliases
    return resolve(f"models:/{name}/{aliases[CHAMPION]}") if CHAMPION in aliases else None


def number_of(uri: str) -> str:
    """The version that an address means now, without fetching the model."""
    match = ADDRESS.fullmatch(uri)
    if match is None:
        raise InputError(f'"{one_line(uri)}" is not the address of a model')
    with asked() as mlflow:
        return str(_find_version(mlflow, uri, match["name"], match["alias"], match["version"]).version)


def log_decision(name: str, version: str, decision: Mapping[str, Any]) -> None:
    """Keep a promotion's table with the version: as its run's artifact and table, and as a tag."""
    with asked() as mlflow:
        client = mlflow.MlflowClient()
        run = client.get_model_version(name, version).run_id
        client.log_dict(run, dict(decision), DECISION)
        rows = [{k: str(v) for k, v in check.items()} for check in decision["checks"]]
        client.log_table(run, {key: [row[key] for row in rows] for key in rows[0]}, "promotion_checks.json")
        told = "passed" if decision["passed"] else f"refused: {', '.join(decision['failed'])}"
        client.set_model_version_tag(name, version, "promotion", told)


def read_decision(name: str, version: str) -> dict[str, Any]:
    """The table of the last promotion that was asked for a version."""
    import json

    with asked() as mlflow:
        client = mlflow.MlflowClient()
        found = _find_version(mlflow, f"models:/{name}/{version}", name, None, version)
        if "promotion" not in found.tags:
            raise InputError(
                f"nobody asked yet whether version {version} of {name} may be promoted",
                fix=f"elborank models promote {name} --version {version}",
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(client.download_artifacts(found.run_id, DECISION, folder))
            decision: dict[str, Any] = json.loads(path.read_text())
    return decision


def check_name(name: str) -> str:
    """A model's name is part of addresses and folders: letters, digits, dot, dash and underscore."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f'"{one_line(name)}" cannot name a model',
            fix="Use letters, digits, dot, dash and underscore, beginning with a letter or digit",
        )
    return name


def _find_version(mlflow: Any, uri: str, name: str, alias: str | None, number: str | None) -> Any:
    client = mlflow.MlflowClient()
    try:
        if number is None:
            number = client.get_model_version_by_alias(name, alias or CHAMPION).version
        return client.get_model_version(name, str(number))
    except mlflow.exceptions.MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise InputError(f"there is no model {one_line(uri)}", fix=_those_that_exist(mlflow)) from error


def _those_that_exist(mlflow: Any) -> str:
    addresses = []
    client = mlflow.MlflowClient()
    for model in sorted(client.search_registered_models(), key=lambda m: m.name):
        aliases = client.get_registered_model(model.name).aliases
        addresses += [f"models:/{model.name}@{alias} (version {n})" for alias, n in sorted(aliases.items())]
    if not addresses:
        place = registry_place()
        return f"The registry at {place} is empty: train a model with `elborank train PATH --name NAME`"
    shown = addresses[:20] + ([f"and {len(addresses) - 20} more"] if len(addresses) > 20 else [])
    return f"There are: {', '.join(shown)}"


def _local_folder(mlflow: Any, found: Any) -> Path:
    """The model's folder on this machine: where the registry keeps it, or a copy fetched once."""
    source = f"models:/{found.name}/{found.version}/artifacts/{MODEL_FOLDER}"
    kept = home() / "models" / f"{found.name}-{found.version}-{found.tags.get('sha256', '')[:12]}"
    if kept.is_dir():
        return kept
    repository = mlflow.MlflowClient().get_model_version_download_uri(found.name, str(found.version))
    if _is_local(repository):
        return Path(mlflow.artifacts.download_artifacts(source))
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".fetching-") as temporary:
        fetched = Path(mlflow.artifacts.download_artifacts(source, dst_path=temporary))
        try:
            fetched.rename(kept)
        except OSError:  # another process was first
            if not kept.is_dir():
                raise
    return kept


def _is_local(uri: str) -> bool:
    return urlsplit(uri).scheme in ("", "file") or (
        uri.startswith("models:/") and urlsplit(tracking_uri()).scheme == "sqlite"
    )


def _from_folder(path: str) -> ModelVersion:
    folder = Path(path)
    if not (folder / "manifest.json").is_file():
        with asked() as mlflow:
            there = _those_that_exist(mlflow)
        raise InputError(
            f'"{one_line(path)}" is neither the address of a model nor a model\'s folder', fix=there
        )
    digest = _digest(folder)
    return ModelVersion(folder.resolve().name, digest[:12], folder.resolve(), digest)


def _digest(folder: Path) -> str:
    from vae_core import storage

    return storage.model_digest(folder)


def _row(found: Any, aliases: list[str]) -> dict[str, Any]:
    elbo = found.tags.get("heldout_elbo")
    return {
        "name": found.name,
        "version": str(found.version),
        "aliases": aliases,
        "created": _utc(found.creation_timestamp),
        "heldout_elbo": float(elbo) if elbo else None,
        "rows": int(found.tags["rows"]) if found.tags.get("rows") else None,
        "dataset_digest": found.tags.get("dataset_digest"),
        "sha256": found.tags.get("sha256"),
    }


def _utc(milliseconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
