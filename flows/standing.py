"""The reports that stand for a schedule's intervals already: one for each, and no record in two of them."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from flows import descriptions, remote, steps
from flows.intervals import Interval, in_utc
from vae_core.errors import InputError, Refused

__all__ = ["Standing"]

BEFORE = 50  # places that are looked at before an interval, until so many say what time they have: a report
ENOUGH = 3  # that was made by --replace may lie inside another


@dataclass
class Standing:
    """What is published of a dataset in an output folder or store."""

    output: str
    dataset: str

    def report_for(self, interval: Interval, *, only: bool) -> dict[str, Any] | None:
        """The report of an interval, as a command tells it; None where there is none yet.

        Whatever made it: a run that comes late or twice finds other files, or another champion, and must not
        give the interval a second report. `--replace` does. Raises Refused where the report stands for
        another length of time and, with `only` (a report holds its interval's records alone), where one of
        another interval has some of the same: the schedule was changed.
        """
        from vae_core import report as reports

        found = remote.published_for(self.output, self.dataset, interval[0])
        if found is None:
            if only:
                self._refuse_overlap(interval)
            return None
        end = _end(found.manifest)
        if end is not None and end != interval[1]:
            raise Refused(
                f"{found.address} is the report of {_span((interval[0], end))}, and one of {_span(interval)} "
                "is due: has the schedule changed? It stays as it is; --replace publishes the new one in its "
                "place."
            )
        return {
            **descriptions.of_report(found.folder, found.manifest),
            "folder": found.address,
            "published": False,
            "warnings": [],
            "quarantine": [],
            "top": reports.top(found.folder, steps.SHOWN),
        }

    @cached_property
    def _places(self) -> list[tuple[datetime, str]]:
        """Starts of intervals with a report, and its place, in order of time; listed once."""
        return sorted((_start(name), name) for name in remote.places(self.output, self.dataset))

    def _refuse_overlap(self, interval: Interval) -> None:
        """Those that begin inside, and of those before the last ones: one may reach over others into it."""
        first, last = (bisect_left(self._places, (moment, "")) for moment in interval)
        for _, name in self._places[first:last]:
            self._refuse_if_shared(name, interval)
        told = 0
        for _, name in reversed(self._places[max(0, first - BEFORE) : first]):
            told += self._refuse_if_shared(name, interval)
            if told == ENOUGH:
                return

    def _refuse_if_shared(self, name: str, interval: Interval) -> bool:
        """Raises Refused where the report has some of the interval's time; whether it says what it has."""
        other = self._interval(name)
        if other is not None and other[0] < interval[1] and other[1] > interval[0]:
            raise Refused(
                f"{self.output.rstrip('/')}/{self.dataset}/{name} is the report of {_span(other)}, and "
                f"one of {_span(interval)} would hold some of its records again: has the schedule "
                "changed? Score what is left of that time by the old schedule (elborank backfill), or "
                "say --replace."
            )
        return other is not None

    def _interval(self, name: str) -> Interval | None:
        """The interval of the report in this place; None where it does not say, or nobody can read it."""
        try:
            manifest = remote.manifest_of(self.output, self.dataset, name)
        except InputError:  # damaged: that is told when its own interval comes
            return None
        end = None if manifest is None else _end(manifest)
        return None if manifest is None or end is None else (datetime.fromisoformat(manifest["as_of"]), end)


def _start(place: str) -> datetime:
    """Where an interval begins, by its report's place.

    >>> _start("as_of=20240129T060000.500000Z").isoformat()
    '2024-01-29T06:00:00.500000+00:00'
    """
    whole, _, fraction = place.removeprefix("as_of=").removesuffix("Z").partition(".")
    return datetime.strptime(f"{whole}.{fraction or 0}+0000", "%Y%m%dT%H%M%S.%f%z")


def _end(manifest: dict[str, Any]) -> datetime | None:
    """Where a report's interval ends; None where it does not say: an older one, or one of all records."""
    text = manifest.get("interval_end")
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def _span(interval: Interval) -> str:
    return f"{in_utc(interval[0])} to {in_utc(interval[1])}"
