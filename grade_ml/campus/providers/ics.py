"""Writes iCalendar text (RFC 5545): turns components into folded lines."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta

#: The rules of Europe/London since 1996.
_TIMEZONE = (
    "BEGIN:VTIMEZONE",
    "TZID:Europe/London",
    "BEGIN:DAYLIGHT",
    "DTSTART:19960331T010000",
    "RRULE:FREQ=YEARLY;BYMONTH=3;BYDAY=-1SU",
    "TZOFFSETFROM:+0000",
    "TZOFFSETTO:+0100",
    "TZNAME:BST",
    "END:DAYLIGHT",
    "BEGIN:STANDARD",
    "DTSTART:19961027T020000",
    "RRULE:FREQ=YEARLY;BYMONTH=10;BYDAY=-1SU",
    "TZOFFSETFROM:+0100",
    "TZOFFSETTO:+0000",
    "TZNAME:GMT",
    "END:STANDARD",
    "END:VTIMEZONE",
)

Event = tuple[str, ...]


def calendar(name: str, events: Iterable[Event]) -> bytes:
    """Return a calendar of `events`, each a tuple of content lines."""
    lines = [
        "BEGIN:VCALENDAR",
        "VERSION:2.0",
        "PRODID:-//grade_ml//simulated campus//EN",
        f"X-WR-CALNAME:{text(name)}",
        "X-WR-TIMEZONE:Europe/London",
        *_TIMEZONE,
    ]
    for event in events:
        lines += ["BEGIN:VEVENT", *event, "END:VEVENT"]
    lines.append("END:VCALENDAR")
    return "".join(f"{_folded(line)}\r\n" for line in lines).encode()


def event(uid: str, summary: str, stamp: date, *lines: str) -> Event:
    """Return an event with the mandatory lines; `stamp` is the day of its last change."""
    return (
        f"UID:{uid}@simulated.grade-ml",
        f"DTSTAMP:{stamp:%Y%m%d}T000000Z",
        f"SUMMARY:{text(f'{summary} (simulated)')}",
        *lines,
    )


def all_day(first: date, last: date) -> Event:
    """Return the lines of an event that lasts whole days, `last` included."""
    return (
        f"DTSTART;VALUE=DATE:{first:%Y%m%d}",
        f"DTEND;VALUE=DATE:{last + timedelta(days=1):%Y%m%d}",
    )


def zoned(name: str, moment: datetime) -> str:
    """Return a date-time property on the clock of London."""
    return f"{name};TZID=Europe/London:{moment:%Y%m%dT%H%M%S}"


def text(value: str) -> str:
    """Return `value` with separators escaped."""
    for character in "\\;,":
        value = value.replace(character, f"\\{character}")
    return value


def _folded(line: str) -> str:
    """Return an ASCII line cut into parts of at most 75 octets."""
    parts = [line[:75], *(f" {line[n : n + 74]}" for n in range(75, len(line), 74))]
    return "\r\n".join(parts)
