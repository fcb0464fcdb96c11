"""Intervals that are scored by themselves or afterwards: one report for each, and the first one stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from flows import steps
from flows.dataset_file import SCORED_BY, DatasetFile
from flows.intervals import Interval, Schedule, in_utc
from flows.standing import Standing
from vae_core.errors import InputError, Refused, one_line

__all__ = ["backfill", "of_interval"]

MOST = 100_000  # intervals of one backfill: eleven years of hours
AHEAD = timedelta(days=366)  # of now may --until lie: a cron's moments are looked for one by one


def of_interval(interval: Interval, *, only: bool) -> dict[str, Any]:
    """The options of a scoring run for an interval: what it stands for, and which records it takes."""
    first, end = interval
    chosen: dict[str, Any] = {"as_of": first.isoformat()}
    if only:
        chosen |= {"start": first.isoformat(), "until": end.isoformat(), "allow_empty": True}
    return chosen


def backfill(
    file: DatasetFile,
    start: datetime,
    until: datetime,
    *,
    replace: bool = False,
    score: Callable[..., dict[str, Any]] = steps.score,
    progress: Callable[[int, int], None] | None = None,
    now: datetime | None = None,
) -> dict[str, Any]:
    """Score every whole interval of the schedule inside [start, until) that is over and has no report yet.

    One whose end, and the schedule's delay after it, is still to come is left to its scheduled run: a report
    made before that would stand without the records that are yet to come. `now` is for tests.

    An interval that cannot be scored does not keep the others waiting: the failures are told at the end, and
    the same command takes up what is missing.
    """
    if file.score is None or not file.score.scheduled:
        raise InputError(
            "the dataset file has no schedule to score by", fix="Give [score] an every or a cron"
        )
    if start >= until:
        raise InputError("the interval is empty", fix="Give a later --until: it is not included itself")
    chosen = file.score
    intervals, waiting = _checked(chosen.schedule, start, until, now or datetime.now(UTC))
    length = len(intervals)
    standing = None if replace else Standing(file.output, file.name)
    rows: list[dict[str, Any]] = []
    for done, interval in enumerate(intervals, start=1):
        rows.append(_one(file, interval, standing, score))
        if progress is not None:
            progress(done, length)
    count = {word: sum(row["outcome"] == word for row in rows) for word in ("published", "kept", "failed")}
    told = {"dataset": file.name, "output": file.output, **count, "not_over": waiting}
    return {**told, "delay": chosen.delay, "intervals": rows}


def _checked(
    schedule: Schedule, start: datetime, until: datetime, now: datetime
) -> tuple[list[Interval], int]:
    """The intervals that are over, and how many are not."""
    if until > now + AHEAD:
        raise InputError(
            f"--until {in_utc(until)} lies more than a year ahead",
            fix="Give an earlier one: what is not over yet is left to the schedule",
        )
    last = min(until, now - schedule.lateness)
    found, count = schedule.count(start, until), schedule.count(start, last)
    if not found:
        raise InputError(
            f"no whole interval of the schedule lies between {in_utc(start)} and {in_utc(until)} UTC",
            fix="Give an earlier --from or a later --until",
        )
    if count > MOST:
        raise InputError(f"{count} intervals are too many at once", fix="Backfill in pieces")
    if not count:
        due = next(iter(schedule.intervals(start, until)))[1] + schedule.lateness
        raise InputError(
            f"no interval between {in_utc(start)} and {in_utc(until)} UTC is over yet: the first one may be "
            f"scored from {in_utc(due)} UTC on, and it is {in_utc(now)}",
            fix="Give an earlier --from, or leave it to the schedule",
        )
    return list(schedule.intervals(start, last)), found - count


def _one(
    file: DatasetFile, interval: Interval, standing: Standing | None, score: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    """One interval, without regard to what stands (None) where it is to be replaced."""
    assert file.score is not None
    row: dict[str, Any] = {"start": interval[0], "end": interval[1], "outcome": "kept", "problem": None}
    try:
        result = None if standing is None else standing.report_for(interval, only=file.score.only_interval)
        if result is None:
            result = score(file.source, **score_options(file, interval), replace=standing is None)
            row["outcome"] = "published" if result["published"] else "kept"
    except (InputError, Refused) as problem:
        return {**row, "outcome": "failed", "problem": str(problem)}
    if (result.get("drift") or {}).get("failed"):
        row["problem"] = "published; drift is strong in " + ", ".join(
            one_line(n) for n in result["drift"]["strong"][:3]
        )
    return {**row, **{name: result[name] for name in ("folder", "ranked", "flagged", "model_version")}}


def score_options(file: DatasetFile, interval: Interval) -> Mapping[str, Any]:
    """What `steps.score` takes to score one interval of a dataset file."""
    chosen = file.score
    assert chosen is not None
    return {
        "model": file.champion,
        "output": file.output,
        "dataset": file.name,
        "null_values": list(file.null_values),
        "encoding": file.encoding,
        "delimiter": file.delimiter,
        "on_schema": file.on_schema,
        **{name: getattr(chosen, name) for name in SCORED_BY},
        **of_interval(interval, only=chosen.only_interval),
    }
