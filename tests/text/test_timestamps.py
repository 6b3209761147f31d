"""Times as they are stored and shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from etui.text import format_utc, local_time, utc_now


def test_a_time_is_stored_in_utc():
    moment = datetime(2026, 1, 2, 5, 4, 3, 21_500, timezone(timedelta(hours=2)))
    assert format_utc(moment) == "2026-01-02T03:04:03.021+00:00"
    assert format_utc(moment, "seconds") == "2026-01-02T03:04:03+00:00"


def test_now_is_now():
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    assert before <= datetime.fromisoformat(utc_now()) <= datetime.now(UTC)


def test_a_time_is_shown_in_the_zone_of_the_machine():
    moment = datetime(2026, 1, 2, 3, 4, 5).astimezone()
    assert local_time(format_utc(moment)) == "2026-01-02 03:04:05"
    assert local_time("no\x1b time\n") == "no␛ time"
