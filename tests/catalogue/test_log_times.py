"""Times as shops export them."""

import time
from datetime import UTC, datetime

import pytest

from modeling_mmfusion.errors import DataError
from training.catalogue.log_times import DAY, Recency, seconds_of

TEN = datetime(2026, 11, 28, 10, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("2026-11-28T10:00:00Z", TEN),
        ("2026-11-28T11:00:00+01:00", TEN),
        ("2026-11-28T10:00:00.123456789", TEN + 0.123456),
        ("2026-11-28 10:00", TEN),
        ("2026-11-28 10:00:00 UTC", TEN),
        ("2026-11-28 10:00:00.500000+00:00", TEN + 0.5),
        ("2026-11-28", TEN - 10 * 3600),
        ("20261128", TEN - 10 * 3600),
        ("28.11.2026 10:00", TEN),
        ("8.1.2026", datetime(2026, 1, 8, tzinfo=UTC).timestamp()),
        ("28.11.2026, 10:00:30", TEN + 30),
        (f"{TEN:.0f}", TEN),
        (f"{TEN:.0f}.25", TEN + 0.25),
        (f"{TEN:.0f}123", TEN + 0.123),
        (f"{TEN:.0f}123456", TEN + 0.123456),
        ("29.02.2026", None),
        ("2026-13-01", None),
        ("28.11.2026 25:00", None),
        ("28.11.2026 13:00 PM", None),
        ("28.11.26", None),
        ("yesterday", None),
        ("", None),
        ("7", None),
    ],
)
def test_forms(text, expected):
    found = seconds_of(text)
    assert found == (expected if expected is None else pytest.approx(expected, abs=1e-5))


@pytest.mark.parametrize(
    "text, hour", [("10:00 AM", 10), ("12:00 AM", 0), ("12:30 pm", 12.5), ("1:05 p.m.", 13 + 1 / 12)]
)
def test_the_order_and_the_halves_of_the_day(text, hour):
    assert (
        seconds_of(f"11/28/2026 {text}", False) == seconds_of(f"28-11-2026 {text}", True) == TEN + (hour - 10) * 3600
    )
    assert seconds_of(f"11/28/2026 {text}", True) is seconds_of("03/04/2026") is None


def test_without_a_zone_it_is_utc_wherever_it_is_read(monkeypatch):
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    try:
        assert seconds_of("2026-11-28 10:00") == seconds_of("28.11.2026 10:00") == TEN
    finally:
        monkeypatch.undo()
        time.tzset()


def recency(*times, day_first=None):
    return Recency.of(enumerate(times, start=2), 10.0, day_first, "log.csv")


def test_a_column_tells_its_order():
    found = recency("03/04/2026", "3/13/2026", "05/04/2026")
    assert found.day_first is False and "dates have the month first, as row 3 tells: '3/13/2026'" in found.told
    assert (found.newest, found.oldest) == tuple(
        datetime(2026, *day, tzinfo=UTC).timestamp() for day in ((5, 4), (3, 4))
    )
    assert recency("03/04/2026", "13/3/2026").day_first is True
    assert recency("03/03/2026", "03/04/2026", day_first=True).told == ""
    assert recency("03/04/2026", day_first=True).newest == datetime(2026, 4, 3, tzinfo=UTC).timestamp()


def test_an_order_that_is_not_told_is_refused():
    with pytest.raises(
        DataError, match="row 2: '03/04/2026' may have the day or the month first, and no row tells; say"
    ):
        recency("03/04/2026", "05/05/2026")
    with pytest.raises(DataError, match="in both orders, row 3 '13/03/2026', row 2 '03/13/2026'; say it with"):
        recency("03/13/2026", "13/03/2026")
    found = recency("03/13/2026", "13/03/2026", day_first=True)
    assert found.seconds("03/13/2026") is None, "declared, it can't be read and is counted"


def test_weights_halve():
    found = recency("2026-11-28", "2026-11-08")
    assert [found.weight(found.newest - days * DAY) for days in (0, 10, 20)] == [1, 0.5, 0.25]
    assert found.weight(None) == 0.25 and found.weight(-1e12) > 0
