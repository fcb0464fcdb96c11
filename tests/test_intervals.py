"""Intervals cover time without a gap or a double, whatever clocks do; a run's interval is its schedule's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from flows.intervals import Schedule
from vae_core.errors import InputError

ZONES = (
    "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/St_Johns", "Africa/Casablanca",
    "Asia/Tehran", "Pacific/Apia", "Antarctica/Troll", "America/Santiago", "Asia/Gaza",
)  # fmt: skip
CRONS = ("0 * * * *", "30 2 * * *", "0 6 * * *", "15 1,2,3 * * 0")
CHANCE = (
    "R 3 * * *",
    "5 r * * *",
    "R(0-30) * * * *",
    "R/5 * * * *",
    "5,R * * * *",
    "0 3 * * R(1-5)",
    "H * * * *",
)
HOUR = timedelta(hours=1)


def clock_changes(zone: str) -> list[datetime]:
    """The moments from 2020 to 2035 at which the zone's offset changes: found by halving."""
    place, found = ZoneInfo(zone), []
    moment, last = datetime(2020, 1, 1, tzinfo=UTC), datetime(2036, 1, 1, tzinfo=UTC)

    def offset(when: datetime) -> timedelta | None:
        return when.astimezone(place).utcoffset()

    while moment < last:
        following = moment + 12 * HOUR
        if offset(moment) != offset(following):
            low, high = moment, following
            while high - low > timedelta(minutes=1):
                middle = low + (high - low) / 2
                low, high = (middle, high) if offset(middle) == offset(low) else (low, middle)
            found.append(high)
        moment = following
    return found


@pytest.mark.parametrize("zone", ZONES)
def test_no_clock_change_leaves_a_gap_or_a_double(zone: str) -> None:
    changes = clock_changes(zone)
    assert changes, "the zone has none"
    for number, change in enumerate(changes):
        cron = CRONS[number % len(CRONS)]
        schedule = Schedule(cron=cron, timezone=zone)
        around = (30 if cron.endswith("* * *") else 24 * 8) * HOUR  # the last one fires on Sundays only
        found = list(schedule.intervals(change - around, change + around))
        assert found[0][0] <= change < found[-1][1], "the change lies in none of them"
        assert all(start < end for start, end in found)
        assert all(before[1] == after[0] for before, after in pairwise(found))
        for start, end in found:
            if abs(start - change) > 3 * HOUR:
                continue
            # due, and just before it is due
            assert schedule.interval(end) == (start, end)
            assert schedule.interval(end - timedelta(microseconds=1))[1] == start


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns"])
def test_every_moment_at_which_prefect_fires_is_the_end_of_an_interval(zone: str) -> None:
    from prefect.server.schemas.schedules import CronSchedule

    for change in clock_changes(zone)[:4]:
        for cron in CRONS:
            due = CronSchedule(cron=cron, timezone=zone)._get_dates_generator(
                n=500, start=change - 30 * HOUR, end=change + 30 * HOUR
            )
            fired = {datetime.fromtimestamp(moment.timestamp(), UTC) for moment in due}
            ends = {
                end
                for _, end in Schedule(cron=cron, timezone=zone).intervals(
                    change - 24 * 8 * HOUR, change + 30 * HOUR
                )
            }
            assert fired == {end for end in ends if end >= change - 30 * HOUR}


def test_the_hour_that_comes_twice_belongs_to_one_interval_of_two_hours() -> None:
    hourly = Schedule(cron="0 * * * *", timezone="Europe/Berlin")
    night = datetime(2024, 10, 27, tzinfo=UTC)
    lengths = [(end - start) / HOUR for start, end in hourly.intervals(night - HOUR, night + 3 * HOUR)]
    assert lengths == [1, 2, 1]
    spring = datetime(2024, 3, 31, tzinfo=UTC)
    assert all(end - start == HOUR for start, end in hourly.intervals(spring - HOUR, spring + 3 * HOUR))


def test_a_delay_moves_the_run_and_not_the_interval() -> None:
    late = Schedule(every="1h", delay="10m")
    nine = datetime(2024, 1, 1, 9, tzinfo=UTC)
    assert late.interval(nine + timedelta(minutes=10)) == (nine - HOUR, nine)
    assert late.interval(nine + timedelta(minutes=9)) == (nine - 2 * HOUR, nine - HOUR)
    assert list(late.intervals(nine - 2 * HOUR, nine)) == [
        (nine - 2 * HOUR, nine - HOUR),
        (nine - HOUR, nine),
    ]


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Pacific/Apia"])
def test_a_cron_has_no_interval_before_there_were_clocks_and_all_of_them_since(zone: str) -> None:
    yearly = Schedule(cron="0 0 1 1 *", timezone=zone)
    first, second = datetime.min.replace(tzinfo=UTC), datetime(2, 1, 1, tzinfo=UTC)
    assert not list(yearly.intervals(first, second))
    found = list(yearly.intervals(first, datetime(2024, 6, 1, tzinfo=UTC)))
    assert len(found) == 2024 - 1971


def test_a_rare_schedule_finds_its_way_back() -> None:
    leap = Schedule(cron="0 0 29 2 *")
    start, end = leap.interval(datetime(2025, 1, 1, tzinfo=UTC))
    assert (start.year, end.year) == (2020, 2024)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({}, "one of every and cron"),
        ({"every": "1h", "cron": "0 * * * *"}, "one of every and cron"),
        ({"cron": "every hour"}, "not a schedule"),
        ({"cron": "0 * * * *", "timezone": "Mars/Olympus"}, "not a time zone"),
        ({"cron": "0 * * * *", "timezone": "../etc/passwd"}, "not a time zone"),
        ({"every": "1h", "timezone": "Europe/Berlin"}, "counted in UTC"),
        ({"cron": "0 * * * *", "delay": "5m"}, "a delay goes with"),
        *(({"cron": c}, "fires by chance") for c in CHANCE),
        ({"every": "soon"}, '^every "soon" is not a length of time'),
        ({"every": "1h", "delay": "10min"}, '^delay "10min" is not a length of time'),
        ({"every": "1h", "delay": "9999999d"}, '^delay "9999999d" is longer than a century'),
        ({"every": "9999999d"}, '^every "9999999d" is longer than a century'),
    ],
)
def test_what_is_no_schedule_is_refused(schedule: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Schedule(**schedule)


@pytest.mark.parametrize("cron", ["@hourly", "0 3 * MAR,APR thu", "0 0 * * FRI", "0 0 1 MAR *"])
def test_a_word_of_cron_that_has_an_r_or_an_h_is_no_chance(cron: str) -> None:
    from prefect.schedules import Cron

    now = datetime(2024, 6, 1, tzinfo=UTC)
    assert Schedule(cron=cron).interval(now) == Schedule(cron=cron).interval(now)
    assert Cron(cron).cron == cron  # Prefect takes it too


def test_a_day_that_never_comes_is_refused_when_it_is_asked_for() -> None:
    with pytest.raises(InputError, match="did not fire"):
        Schedule(cron="0 0 30 2 *").interval(datetime(2024, 1, 1, tzinfo=UTC))
