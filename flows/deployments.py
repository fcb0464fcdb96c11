"""Scheduled work as Prefect deployments: names, schedules, parameters, work pools.

A dataset file (`flows.dataset_file`) becomes up to three deployments, `train/NAME`, `score/NAME` and
`generate/NAME`, for the workers of a pool: `deploy` makes them on the server, `document` writes the same as a
prefect.yaml. `serve` is the short way for one typed command: this process runs what comes due.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from flows import datasets, namesakes
from flows.dataset_file import SCORED_BY, SECTIONS, DatasetFile, Scheduled
from flows.intervals import EPOCH, Schedule, every_of
from flows.prefect_server import TAG
from flows.registry import home
from vae_core.errors import InputError, one_line

__all__ = ["Deployment", "deploy", "deployments", "document", "every_of", "interval", "rescheduled", "serve"]

# What a run needs of its process; the rest comes from the worker.
ENVIRONMENT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}


@dataclass(frozen=True)
class Deployment:
    """One flow of one dataset, as the server is to have it."""

    flow: str  # train, score or generate
    name: str
    parameters: dict[str, Any]
    schedule: Schedule | None
    job_variables: dict[str, Any]

    @property
    def entrypoint(self) -> str:
        """Where a worker finds the flow: a module, so that runs start in any working folder."""
        return f"flows.{self.flow}.{self.flow}_flow"


def deployments(file: DatasetFile) -> list[Deployment]:
    """The deployments that a dataset file asks for."""
    made = []
    for section in SECTIONS:
        chosen: Scheduled | None = getattr(file, section)
        if chosen is not None:
            parameters = _without_nothing(PARAMETERS[section](file, chosen))
            when = chosen.schedule if chosen.scheduled else None
            made.append(Deployment(section, file.name, parameters, when, job_variables(file)))
    return made


def _when(chosen: Scheduled) -> dict[str, Any]:
    zone = chosen.timezone if chosen.cron else None
    return {"every": chosen.every, "cron": chosen.cron, "timezone": zone, "delay": chosen.delay}


def _reading(file: DatasetFile) -> dict[str, Any]:
    return {
        "null_values": list(file.null_values) or None,
        "encoding": file.encoding,
        "delimiter": file.delimiter,
        "on_schema": file.on_schema,
        "dataset": file.name,
    }


def _notify(file: DatasetFile) -> dict[str, Any] | None:
    return file.notify.model_dump(mode="json", exclude_none=True) if file.notify else None


def train_parameters(file: DatasetFile, chosen: Any) -> dict[str, Any]:
    """Those of the flow `train`."""
    return {
        "path": file.source,
        "name": file.name,
        "ids": list(file.ids) or None,
        "time": file.time,
        "kinds": chosen.kinds or None,
        "settings": chosen.settings or None,
        "window": chosen.window,
        "promote": chosen.promote,
        "notify": _notify(file),
        **_reading(file),
        **_when(chosen),
    }


def score_parameters(file: DatasetFile, chosen: Any) -> dict[str, Any]:
    """Those of the flow `score`."""
    return {
        "path": file.source,
        "model": file.champion,
        "output": file.output,
        "only_interval": chosen.only_interval and chosen.scheduled,
        "notify": _notify(file),
        **{name: getattr(chosen, name) for name in SCORED_BY},
        **_reading(file),
        **_when(chosen),
    }


def generate_parameters(file: DatasetFile, chosen: Any) -> dict[str, Any]:
    """Those of the flow `generate`."""
    return {
        "model": file.champion,
        "n": chosen.n,
        "output": chosen.output,
        "missing": chosen.missing,
        "seed": chosen.seed,
        "notify": _notify(file),
        **_when(chosen),
    }


PARAMETERS: dict[str, Callable[[DatasetFile, Any], dict[str, Any]]] = {
    "train": train_parameters,
    "score": score_parameters,
    "generate": generate_parameters,
}


def job_variables(file: DatasetFile) -> dict[str, Any]:
    """What the pool's job template takes: environment, folder, image."""
    chosen: dict[str, Any] = {"env": {**ENVIRONMENT, **file.deploy.env}}
    if file.deploy.type == "process":  # such runs start in a temporary folder; an image says for itself
        chosen["env"].setdefault("ELBORANK_HOME", str(home()))
    if file.deploy.working_dir is not None:
        chosen["working_dir"] = file.deploy.working_dir
    if file.deploy.image is not None:
        chosen |= {"image": file.deploy.image, "image_pull_policy": "IfNotPresent"}
    return chosen


def deploy(file: DatasetFile, *, automation: bool = True) -> dict[str, Any]:
    """Make the deployments of a dataset on the server, with their work pool; again: brings them up to date.

    Runs of one deployment wait for each other (limit 1, ENQUEUE): they would only share the processors, and a
    run that was cancelled for coming early would leave its interval without a report. What the file asked for
    once and does no longer is named under `left`, and stays: somebody else may have made it under this name.
    So may they have made what is brought up to date: where it read another input, `warnings` says so, and
    where scoring had another schedule.
    """
    _needs_a_server()
    from flows import prefect_server

    made = deployments(file)
    reads = {f"{d.flow}/{d.name}": d.parameters["path"] for d in made if "path" in d.parameters}
    with prefect_server.asked():
        before = prefect_server.there(reads)
        warnings = namesakes.taken_over(before, reads) + rescheduled(before, made)
        prefect_server.make_pool(file.deploy.pool, file.deploy.type)
        ids = {f"{d.flow}/{d.name}": prefect_server.apply(d, file.deploy.pool) for d in made}
        left = prefect_server.there(name for s in SECTIONS if (name := f"{s}/{file.name}") not in ids)
        automations = prefect_server.make_zombie_automations() if automation else {}
    return {
        "pool": file.deploy.pool,
        "type": file.deploy.type,
        "zombies": automations.get("zombies"),
        "stillborn": automations.get("stillborn"),
        "left": list(left),
        "warnings": warnings,
        "deployments": [
            {
                "deployment": f"{d.flow}/{d.name}",
                "schedule": in_words(d.schedule),
                "id": ids[f"{d.flow}/{d.name}"],
            }
            for d in made
        ],
    }


def rescheduled(before: Mapping[str, Mapping[str, Any]], made: Iterable[Deployment]) -> list[str]:
    """A warning where intervals change from which each report takes its records: the first may overlap.

    `before` are the parameters of the deployments that are there, by FLOW/NAME.
    """
    warnings = []
    for one in made:
        name = f"{one.flow}/{one.name}"
        if name not in before or not one.parameters.get("only_interval"):
            continue
        old, new = (_intervals(given) for given in (before[name], one.parameters))
        if old and old != new:
            warnings.append(
                f"{name} ran {old} and runs {new} from now on. An interval is refused while a report of the "
                "old schedule has some of its time: score the rest of it by the old one (elborank backfill)."
            )
    return warnings


def _intervals(given: Mapping[str, Any]) -> str:
    """By what a deployment's intervals are cut, in words; empty for one that is started by hand."""
    if given.get("every"):
        return f"every {one_line(str(given['every']))}"
    return f"by cron {one_line(str(given['cron']))} ({given.get('timezone')})" if given.get("cron") else ""


def document(file: DatasetFile) -> dict[str, Any]:
    """The same deployments as the content of a prefect.yaml, for `prefect deploy --all`."""
    return {
        "name": file.name,
        "pull": [],
        "deployments": [
            {
                "name": made.name,
                "entrypoint": made.entrypoint,
                "parameters": made.parameters,
                "tags": [TAG],
                "schedules": [_as_yaml(made.schedule)] if made.schedule else [],
                "concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE"},
                "work_pool": {"name": file.deploy.pool, "job_variables": made.job_variables},
            }
            for made in deployments(file)
        ],
    }


def _as_yaml(when: Schedule) -> dict[str, Any]:
    if when.every is not None:
        anchor = (EPOCH + when.lateness).isoformat()
        return {
            "interval": int(every_of(when.every).total_seconds()),
            "anchor_date": anchor,
            "timezone": "UTC",
        }
    return {"cron": when.cron, "timezone": when.timezone}


def in_words(when: Schedule | None) -> str:
    """A schedule for a person.

    >>> in_words(Schedule(every="1h", delay="5m")), in_words(None)
    ('every 1h, 5m after', 'by hand')
    """
    if when is None:
        return "by hand"
    if when.every is not None:
        return f"every {when.every}" + (f", {when.delay} after" if when.delay else "")
    return f"cron {when.cron} ({when.timezone})"


def _without_nothing(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def _needs_a_server() -> None:
    if not os.environ.get("PREFECT_API_URL"):
        raise InputError(
            "a schedule needs a Prefect server",
            fix="Start one with `prefect server start` and set PREFECT_API_URL=http://127.0.0.1:4200/api",
        )


# ------------------------------------------------------------------------------- without a worker


def serve(
    parameters: Mapping[str, Any],
    *,
    name: str | None = None,
    every: str | None = None,
    cron: str | None = None,
    announce: Callable[[dict[str, Any]], None] = lambda _: None,
) -> None:
    """Register a deployment of the flow `score` with its schedule and run what comes due, until stopped.

    Needs a Prefect server (PREFECT_API_URL): an embedded one would end with this process, and its schedule
    with it. `announce` is called with what was deployed, once it is.
    """
    when = Schedule(every, cron)  # refuses what cannot be read, before anything is registered
    _needs_a_server()
    chosen = _without_nothing(absolute(parameters)) | {"every": every, "cron": cron}
    name = name or chosen.get("dataset") or datasets.dataset_name(chosen["path"])
    from prefect.types.entrypoint import EntrypointType

    from flows import prefect_server
    from flows.score import score_flow

    deployment = f"{score_flow.name}/{name}"
    with prefect_server.asked():
        warnings = namesakes.taken_over(prefect_server.there([deployment]), {deployment: chosen["path"]})
    announce(
        {
            "deployment": deployment,
            "warnings": warnings,
            "schedule": f"every {every}" if every else f"cron {cron} (UTC)",
            "output": chosen["output"],
            "parameters": chosen,
        }
    )
    with prefect_server.asked():
        score_flow.serve(
            name=name,
            schedule=prefect_server.schedule(when),
            parameters=chosen,
            tags=[TAG],
            limit=1,  # runs of one deployment wait for each other: they would only share the processors
            print_starting_message=False,
            entrypoint_type=EntrypointType.MODULE_PATH,  # runs start in any working folder
        )


def interval(moment: datetime, every: str | None, cron: str | None) -> tuple[datetime, datetime]:
    """The last whole interval [start, end) of a schedule in UTC at `moment`.

    >>> from datetime import UTC
    >>> start, end = interval(datetime(2013, 2, 12, 9, 0, 3, tzinfo=UTC), "1h", None)
    >>> f"{start:%H:%M} {end:%H:%M}"
    '08:00 09:00'
    """
    return Schedule(every, cron).interval(moment)


def absolute(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The same with absolute paths: a scheduled run may start in another folder."""
    chosen = dict(parameters)
    for key in ("path", "output"):
        if "://" not in str(chosen[key]):
            chosen[key] = str(Path(chosen[key]).absolute())
    if not chosen["model"].startswith("models:"):
        chosen["model"] = str(Path(chosen["model"]).absolute())
    return chosen
