"""Parse points in time from the command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from etui.errors import UsageError

_AGO = re.compile(r"(\d{1,6})\s*(m|h|d|w)", re.IGNORECASE)
_STEPS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_since(text: str, now: datetime) -> datetime:
    """Parse a point in time.

    It is ``today``, ``yesterday``, ``30m``, ``12h``, ``7d``, ``2w``, or an ISO 8601 date or time.

    Args:
        text: User input; a date or time without a zone is in the zone of ``now``.

    Raises:
        UsageError: It is none of these.
    """
    word = text.strip().lower()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if word == "today":
        return midnight
    if word == "yesterday":
        return midnight - timedelta(days=1)
    ago = _AGO.fullmatch(word)
    try:
        if ago:
            return now - timedelta(**{_STEPS[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(text.strip())
        moment = moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)
        moment.astimezone(UTC)  # which the years 1 and 9999 may not have
        return moment
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"not a time: {text!r}",
            "write today, yesterday, 30m, 12h, 7d, 2w or a date such as 2026-11-24",
        ) from error
