"""How a date is written in settings and options: YYYY-MM-DD and nothing that only resembles it."""

from __future__ import annotations

import re
from datetime import date, datetime

#: Days outside these years are typing errors, and frames (1677 to 2262) could not hold all of
#: them, nor what is computed from them: the simulated campus begins years before its day.
FIRST_YEAR, LAST_YEAR = 1900, 2199
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def parse_date(text: str) -> date:
    """Return the date that `text` names.

    >>> parse_date("2026-03-01")
    datetime.date(2026, 3, 1)

    Raises
    ------
    ValueError
        It is not written as YYYY-MM-DD, or there is no such day. `20260301` is refused: elsewhere
        it means seconds since 1970. Or it lies outside the years 1900 to 2199.
    """
    if not _DAY.fullmatch(text):
        raise ValueError("not a date such as 2026-03-01")
    day = date.fromisoformat(text)
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise ValueError(f"not in the years {FIRST_YEAR} to {LAST_YEAR}")
    return day


def parse_moment(text: str) -> date | datetime:
    """Return the date that `text` names, or the moment where a time of day follows it.

    >>> parse_moment("2026-03-01 10:00Z")
    datetime.datetime(2026, 3, 1, 10, 0, tzinfo=datetime.timezone.utc)

    Raises
    ------
    ValueError
        As in `parse_date`.
    """
    day, separator, time = text[:10], text[10:11], text[11:]
    if separator in ("T", " ") and time:
        return datetime.combine(parse_date(day), datetime.fromisoformat(text).timetz())
    return parse_date(text)
