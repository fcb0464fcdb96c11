"""Similar normal records of a published report: found with its dataset and model, which it does not hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from flows.registry import ModelVersion, home, resolve
from vae_core.errors import InputError


def of_record(report: Any, row: Mapping[str, Any], n: int, *, hide_values: bool = False) -> dict[str, Any]:
    """`similar`: the n nearest normal records, and `values` of the record itself, as texts by column.

    With `hide_values` keys, ranks and distances only.
    """
    import pyarrow as pa

    from vae_core import similar, storage
    from vae_core.page.wording import named

    data, version = _dataset(report.manifest), _version(report.manifest)
    if data.image is not None:
        raise InputError("--similar is for tables", file=report.folder, fix="Leave it out")
    model = storage.load(version.folder)
    normal = similar.normal_records(report)
    ranks = {
        (key["record_id"], key["source"], key["row"]): key["rank"]
        for key in normal.to_pylist()
        if key["rank"] != row["rank"]
    }
    itself = pa.concat_tables(list(_rows(data, {(row["record_id"], row["source"], row["row"])})))
    if itself.num_rows != 1:
        raise InputError(f'has no record "{row["record_id"]}"', file=data.folder, fix="Score it again")
    hidden = named(row["reasons"] or [])
    found = similar.nearest(model, itself, _rows(data, set(ranks)), hidden=hidden, n=n)
    told = []
    for values in found.to_pylist():
        key = values.pop("_record_id"), values.pop("_source"), values.pop("_row")
        one = {"record_id": key[0], "rank": ranks[key], "distance": values.pop("_distance")}
        told.append(one if hide_values else one | {"values": _texts(values)})
    own = {name: value for name, value in itself.to_pylist()[0].items() if not name.startswith("_")}
    return {"similar": told, **({} if hide_values else {"values": _texts(own)})}


def _dataset(manifest: Mapping[str, Any]) -> Any:
    """The dataset that was ranked, if it is still here: the one with its digest."""
    from vae_core import sources

    name, digest = manifest["dataset"]["name"], manifest["dataset"]["digest"]
    place = home() / "datasets" / name
    for folder in sorted(place.glob("*/")):
        if sources.is_dataset(folder) and (data := sources.open_dataset(folder)).digest == digest:
            return data
    fix = "Score its file again where the report was made, or set ELBORANK_HOME to where it was"
    raise InputError(f"the records that were ranked ({name} {digest[:12]}) are not here", file=place, fix=fix)


def _version(manifest: Mapping[str, Any]) -> ModelVersion:
    """The model that ranked, from the registry."""
    made_by = manifest["model"]
    if not str(made_by["version"]).isdigit():
        fix = "Score with models:/NAME/VERSION to ask for similar records"
        raise InputError("the report was made with a model folder, which nobody can find again", fix=fix)
    version = resolve(f"models:/{made_by['name']}/{made_by['version']}")
    if version.sha256 != made_by["sha256"]:
        fix = "Point MLFLOW_TRACKING_URI at the registry that the report was made with"
        raise InputError(f"{made_by['name']} {made_by['version']} is another model than ranked", fix=fix)
    return version


def _rows(data: Any, keys: set[tuple[str, str, int]]) -> Iterator[Any]:
    """The records of a dataset with these keys (id, file, row), in pieces."""
    import pyarrow as pa

    from vae_core import sources

    left = set(keys)
    for batch in sources.batches(data):
        if not left:
            return
        own = zip(*(batch[name].to_pylist() for name in ("_record_id", "_source", "_row")), strict=True)
        places = [place for place, key in enumerate(own) if key in left]
        if places:
            piece = pa.Table.from_batches([batch]).take(pa.array(places))
            left -= set(zip(*(piece[c].to_pylist() for c in ("_record_id", "_source", "_row")), strict=True))
            yield piece


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: _text(value) for name, value in values.items() if not isinstance(value, list)}


def _text(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
