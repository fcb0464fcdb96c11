"""Scheduled scoring: names, schedules, and the interval that each run's report stands for.

Intervals are half-open in UTC and lie on a fixed grid, so that a report's name depends on its schedule alone
and not on when a worker was free: 1h means [08:00, 09:00), scored at 09:00, published as as_of=...T080000Z.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flows import steps
from vae_core.errors import InputError, one_line

__all__ = ["every_of", "interval", "serve"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


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
    if (every is None) == (cron is None):
        raise InputError(
            "a schedule is one of --every and --cron", fix="Write --every 1h, or --cron '0 * * * *'"
        )
    if not os.environ.get("PREFECT_API_URL"):
        raise InputError(
            "a schedule needs a Prefect server",
            fix="Start one with `prefect server start` and set PREFECT_API_URL=http://127.0.0.1:4200/api",
        )
    interval(datetime.now(UTC), every, cron)  # refuses what cannot be read, before anything is registered
    chosen = {k: v for k, v in absolute(parameters).items() if v is not None} | {"every": every, "cron": cron}
    name = name or chosen.get("dataset") or steps.dataset_name(chosen["path"])
    from prefect.types.entrypoint import EntrypointType

    from flows.score import score_flow

    announce(
        {
            "deployment": f"{score_flow.name}/{name}",
            "schedule": f"every {every}" if every else f"cron {cron} (UTC)",
            "output": chosen["output"],
            "parameters": chosen,
        }
    )
    score_flow.serve(
        name=name,
        schedule=schedule(every, cron),
        parameters=chosen,
        tags=["elborank"],
        limit=1,  # runs of one deployment wait for each other: they would only share the processors
        print_starting_message=False,
        entrypoint_type=EntrypointType.MODULE_PATH,  # runs start in any working folder
    )


def schedule(every: str | None, cron: str | None) -> Any:
    """The schedule as Prefect has it; intervals are counted from midnight UTC, not from the deployment."""
    from prefect.schedules import Cron, Interval

    if every is not None:
        return Interval(every_of(every), anchor_date=EPOCH, timezone="UTC")
    return Cron(cron, timezone="UTC")


def interval(moment: datetime, every: str | None, cron: str | None) -> tuple[datetime, datetime]:
    """The last whole interval [start, end) of the schedule at `moment`.

    >>> start, end = interval(datetime(2013, 2, 12, 9, 0, 3, tzinfo=UTC), "1h", None)
    >>> f"{start:%H:%M} {end:%H:%M}"
    '08:00 09:00'
    >>> start, end = interval(datetime(2013, 2, 12, 9, 0, tzinfo=UTC), None, "30 6 * * *")
    >>> f"{start:%d %H:%M} {end:%d %H:%M}"
    '11 06:30 12 06:30'
    """
    moment = datetime.fromtimestamp(moment.timestamp(), UTC)  # Prefect hands out a class of its own
    if every is not None:
        length = every_of(every)
        end = moment - (moment - EPOCH) % length
        return end - length, end
    # Prefect's own copy: the schedule that fires and the interval computed here must never disagree.
    from prefect._vendor.croniter import CroniterError, croniter

    try:
        ticks = croniter(cron, moment + timedelta(seconds=1), ret_type=datetime)
    except CroniterError as error:
        raise InputError(
            f'--cron "{one_line(str(cron))}" is not a schedule: {error}',
            fix="Write five fields, such as '0 * * * *'",
        ) from error
    end = ticks.get_prev()
    return ticks.get_prev(), end


def every_of(text: str) -> timedelta:
    """A length of time as typed.

    >>> every_of("90m")
    datetime.timedelta(seconds=5400)
    """
    match = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text.strip())
    if match is None:
        raise InputError(
            f'--every "{one_line(text)}" is not a length of time', fix="Write 30s, 15m, 1h or 1d"
        )
    return timedelta(seconds=int(match[1]) * UNITS[match[2]])


def absolute(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The same with absolute paths: a scheduled run may start in another folder."""
    chosen = dict(parameters)
    for key in ("path", "output"):
        if "://" not in str(chosen[key]):
            chosen[key] = str(Path(chosen[key]).absolute())
    if not chosen["model"].startswith("models:"):
        chosen["model"] = str(Path(chosen["model"]).absolute())
    return chosen
