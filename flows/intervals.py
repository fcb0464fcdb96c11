"""Which interval a scheduled run stands for: half-open, in UTC, from the schedule alone.

A schedule is a row of moments; between each and the next lies one interval [start, end), whose report is
published as `as_of=<start>`. So the intervals cover time without a gap and without a double, whatever the
clocks of a zone do, and a run that comes late, twice or years later gets the interval that its moment names.

An interval length (`every`) is counted from 1970-01-01 UTC. A cron expression is read on the wall clock of
its zone, as Prefect reads it: an hour that comes twice in autumn fires the first time; an hour that spring
leaves out fires at the moment that it would be by the new offset. Two ticks at one moment are one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from vae_core.errors import InputError, one_line

__all__ = ["EPOCH", "Interval", "Schedule", "end_of", "every_of", "in_utc", "instant"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
OFFSETS = timedelta(hours=27)  # no two offsets of a zone lie further apart: Samoa once left out a whole day
CHANCE = re.compile(r"(?:^|[\s,])[rh](?:$|[\s,(/])", re.IGNORECASE)  # croniter's own: R, H(0-30), R/5
LONGEST = timedelta(days=36_525)  # a century: what lies further off has no date
FIRST_YEAR = 1971  # a cron expression that has not fired since then will not be looked for any further

Interval = tuple[datetime, datetime]


@dataclass(frozen=True)
class Schedule:
    """When to run: every so often, or by a cron expression on a zone's wall clock; `delay` later than due.

    >>> start, end = Schedule(every="1h").interval(datetime(2013, 2, 12, 9, 0, 3, tzinfo=UTC))
    >>> f"{start:%H:%M} {end:%H:%M}"
    '08:00 09:00'
    >>> start, end = Schedule(cron="30 6 * * *").interval(datetime(2013, 2, 12, 9, tzinfo=UTC))
    >>> f"{start:%d %H:%M} {end:%d %H:%M}"
    '11 06:30 12 06:30'
    """

    every: str | None = None
    cron: str | None = None
    timezone: str = "UTC"
    delay: str | None = None  # with `every`: how long after an interval's end its records may still arrive

    def __post_init__(self) -> None:
        if (self.every is None) == (self.cron is None):
            raise InputError(
                "a schedule is one of every and cron", fix="Write every = '1h', or cron = '0 * * * *'"
            )
        if self.every is not None:
            every_of(self.every, "every")
            if self.timezone != "UTC":
                raise InputError(
                    f"an interval of {self.every} is counted in UTC, not in {one_line(self.timezone)}",
                    fix="Leave out the timezone, or give a cron expression",
                )
        else:
            self._zone()
            self._refuse_chance()
            next(self._walls_before(datetime.now(UTC)), None)  # refuses what cannot be read
        if self.delay is not None:
            every_of(self.delay, "delay")
            if self.every is None:
                raise InputError(
                    "a delay goes with an interval, not with cron", fix="Write the cron later itself"
                )

    def _refuse_chance(self) -> None:
        """R stands for another number whenever it is read, H for one of a name that Prefect does not give."""
        if CHANCE.search(str(self.cron)):
            raise InputError(
                f'cron "{one_line(str(self.cron))}" fires by chance (R, H): its intervals would not last',
                fix="Write numbers, such as '17 3 * * *'",
            )

    @property
    def lateness(self) -> timedelta:
        """How long after an interval's end its run is due."""
        return every_of(self.delay) if self.delay else timedelta(0)

    def interval(self, moment: datetime) -> Interval:
        """The last whole interval at `moment`, the time for which a run was scheduled."""
        moment = datetime.fromtimestamp(moment.timestamp(), UTC)  # Prefect hands out a class of its own
        moment -= self.lateness
        if self.every is not None:
            length = every_of(self.every)
            end = moment - (moment - EPOCH) % length
            return end - length, end
        last: list[datetime] = []  # the two latest ticks up to `moment`; on the wall they may be out of order
        for wall in self._walls_before(moment):
            tick = self._instant(wall)
            if len(last) == 2 and tick < last[0] - OFFSETS:
                break
            if tick <= moment:
                last = sorted({*last, tick})[-2:]
        if len(last) < 2:
            raise InputError(
                f'cron "{one_line(str(self.cron))}" did not fire twice before {moment:%Y-%m-%d %H:%M} UTC',
                fix="Give a cron expression that repeats",
            )
        return last[0], last[1]

    def intervals(self, start: datetime, until: datetime) -> Iterator[Interval]:
        """All whole intervals inside [start, until), in order.

        >>> midnight = datetime(2024, 3, 31, tzinfo=UTC)
        >>> [f"{a:%H:%M}" for a, _ in Schedule(every="6h").intervals(midnight, midnight + timedelta(days=1))]
        ['00:00', '06:00', '12:00', '18:00']
        """
        yield from pairwise(self._ticks(start, until))

    def count(self, start: datetime, until: datetime) -> int:
        """How many these are; with `every` without making them."""
        if self.every is None:
            return sum(1 for _ in self.intervals(start, until))
        return max(0, (until - start - (EPOCH - start) % every_of(self.every)) // every_of(self.every))

    def _ticks(self, start: datetime, until: datetime) -> Iterable[datetime]:
        """The schedule's moments from `start` to `until`, both included, in order."""
        if self.every is not None:
            length = every_of(self.every)
            first = start + (EPOCH - start) % length
            return (first + n * length for n in range((until - first) // length + 1))
        found: set[datetime] = set()
        for wall in self._walls_before(until):
            tick = self._instant(wall)
            if tick + OFFSETS < start:
                break
            if start <= tick <= until:
                found.add(tick)
        return sorted(found)

    def _zone(self) -> ZoneInfo:
        try:
            return ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise InputError(
                f'"{one_line(self.timezone)}" is not a time zone', fix="Write a name such as Europe/Berlin"
            ) from error

    def _walls_before(self, moment: datetime) -> Iterator[datetime]:
        """The wall clock's times at which the cron expression fires, going back from a day after `moment`."""
        # Prefect's own copy: the schedule that fires and the interval computed here must never disagree.
        from prefect._vendor.croniter import CroniterBadDateError, CroniterError, croniter

        if moment.year < FIRST_YEAR - 1:
            return
        wall = moment.astimezone(self._zone()).replace(tzinfo=None) + OFFSETS
        try:
            ticks: Any = croniter(self.cron, wall, ret_type=datetime)
        except (CroniterError, ValueError, AttributeError) as error:
            raise InputError(
                f'cron "{one_line(str(self.cron))}" is not a schedule: {one_line(str(error))}',
                fix="Write five fields, such as '0 * * * *'",
            ) from error
        while True:
            try:
                wall = ticks.get_prev()
            except CroniterBadDateError:  # never, such as 30 February
                return
            if wall.year < FIRST_YEAR:
                return
            yield wall

    def _instant(self, wall: datetime) -> datetime:
        """The moment of a wall clock's time: the first of two, and what it would be of one that is left out.

        >>> berlin = Schedule(cron="30 2 * * *", timezone="Europe/Berlin")
        >>> [f"{berlin._instant(datetime(2024, *day, 2, 30)):%H:%M}" for day in ((3, 31), (10, 27))]
        ['00:30', '00:30']
        """
        zone = self._zone()
        first = wall.replace(tzinfo=zone).astimezone(UTC)
        if first.astimezone(zone).replace(tzinfo=None) == wall:
            return first
        return wall.replace(tzinfo=zone, fold=1).astimezone(UTC)


def in_utc(when: datetime) -> str:
    """A moment for a person: to the minute, or to the second where it has some.

    >>> in_utc(EPOCH), in_utc(EPOCH + timedelta(seconds=30))
    ('1970-01-01 00:00', '1970-01-01 00:00:30')
    """
    return f"{when:%Y-%m-%d %H:%M:%S}".removesuffix(":00")


def every_of(text: str, key: str = "") -> timedelta:
    """A length of time as typed; `key` is what it was typed for, for the message.

    >>> every_of("90m")
    datetime.timedelta(seconds=5400)
    """
    match = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text.strip())
    told = f'{key} "{one_line(text)}"'.strip()
    if match is None:
        raise InputError(f"{told} is not a length of time", fix="Write 30s, 15m, 1h or 1d")
    length = timedelta(seconds=int(match[1]) * UNITS[match[2]])
    if length > LONGEST:
        raise InputError(f"{told} is longer than a century", fix="Write a shorter one")
    return length


def instant(text: str | None, flag: str) -> datetime | None:
    """A time given on the command line, as UTC; without an offset it is UTC.

    >>> instant("2013-03-01", "--from").isoformat()
    '2013-03-01T00:00:00+00:00'
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as error:
        raise InputError(
            f'{flag} "{one_line(text)}" is no time in UTC: that has the years 1 to 9999',
            fix="Write 2013-03-01 or 2013-03-01T08:00:00Z",
        ) from error
    except ValueError as error:
        raise InputError(
            f'{flag} "{one_line(text)}" is not a time', fix="Write 2013-03-01 or 2013-03-01T08:00:00Z"
        ) from error


def end_of(as_of: str | None, start: str | None, until: str | None) -> str | None:
    """The end of the interval that a report stands for, where it holds the interval's records alone."""
    if as_of is None or start is None or instant(as_of, "--as-of") != instant(start, "--from"):
        return None
    return until
