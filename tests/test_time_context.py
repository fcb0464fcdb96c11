"""A timestamp is context: sines and cosines of the periods that training's span shows, of the instant."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest

from tests.test_encoding import START, fitted


@pytest.mark.parametrize(
    ("step", "rows", "periods"),
    [
        (datetime.timedelta(hours=1), 24, ()),
        (datetime.timedelta(hours=1), 24 * 5, ("hour",)),
        (datetime.timedelta(hours=1), 24 * 20, ("hour", "weekday")),
        (datetime.timedelta(hours=5), 2000, ("hour", "weekday", "season")),
        (datetime.timedelta(days=1), 10, ()),
        (datetime.timedelta(days=1), 300, ("weekday",)),
        (datetime.timedelta(days=1), 1000, ("weekday", "season")),
    ],
)
def test_a_timestamp_is_context_by_the_periods_that_its_span_shows(
    step: datetime.timedelta, rows: int, periods: tuple[str, ...]
) -> None:
    times = pa.array([START + i * step for i in range(rows)], pa.timestamp("us", "UTC"))
    encoding = fitted(pa.table({"t": times, "x": np.random.default_rng(0).normal(size=rows)}))
    assert encoding.periods == periods
    assert len(encoding.features) == 1
    assert encoding.context_width == sum({"hour": 4, "weekday": 2, "season": 2}[p] for p in periods)


def test_context_repeats_with_its_period_and_knows_no_trend() -> None:
    times = pa.array([START + datetime.timedelta(hours=i) for i in range(24 * 20)], pa.timestamp("us", "UTC"))
    encoding = fitted(pa.table({"t": times, "x": np.random.default_rng(0).normal(size=24 * 20)}))

    def context(*moments: datetime.datetime) -> np.ndarray:
        return encoding.encode(
            pa.table({"t": pa.array(moments, pa.timestamp("us", "UTC")), "x": [0.0] * len(moments)})
        ).context

    noon = datetime.datetime(2024, 5, 6, 12, tzinfo=datetime.UTC)
    weeks = [noon + datetime.timedelta(weeks=k) for k in (0, 1, 52, 520)]
    np.testing.assert_allclose(context(*weeks), np.repeat(context(noon), 4, axis=0), atol=1e-6)
    hours = context(*[noon + datetime.timedelta(hours=k) for k in range(24)])
    assert np.abs(hours[:, None] - hours[None]).max(-1)[~np.eye(24, dtype=bool)].min() > 0.1
    np.testing.assert_allclose(np.square(hours[:, :2]).sum(1), 1, atol=1e-6)


def test_context_is_that_of_the_instant_in_whatever_zone_it_is_written() -> None:
    times = pa.array([START + datetime.timedelta(hours=i) for i in range(24 * 20)], pa.timestamp("us", "UTC"))
    encoding = fitted(pa.table({"t": times, "x": np.random.default_rng(0).normal(size=24 * 20)}))
    local = times.cast(pa.timestamp("ns", "Asia/Tokyo"))
    x = pa.array(np.zeros(24 * 20))
    np.testing.assert_array_equal(
        encoding.encode(pa.table({"t": times, "x": x})).context,
        encoding.encode(pa.table({"t": local, "x": x})).context,
    )
