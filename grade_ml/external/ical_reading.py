"""The process that reads one iCalendar feed for `ical`, and ends by itself if that takes too much.

Recurrences, their exceptions and moved instances, whole days, several days and time zones are
resolved here. The feed comes by standard input, the occurrences go to standard output as JSON: a
list of them, or an object that states the wrong field and the problem.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from itertools import chain, islice
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from grade_ml.external.protocol import PayloadError

if TYPE_CHECKING:
    from icalendar import Calendar, Component, Event

#: Fields that state when an event was last changed; the first that it has counts.
_CHANGED = ("LAST-MODIFIED", "CREATED", "DTSTAMP")
#: Nothing on a campus takes place each minute, and a year has 500,000 of them.
_TOO_OFTEN = re.compile(
    rb"^RRULE\b[^\r\n]*\bFREQ=(SECONDLY|MINUTELY)\b", re.MULTILINE | re.IGNORECASE
)
_FOLD = re.compile(rb"\r?\n[ \t]")
#: Characters of a summary and of a category, and categories of an event, that are looked at.
_LONGEST, _CATEGORIES = 500, 50


def main() -> None:
    """Read the feed within the limits that the first argument names."""
    limits = json.loads(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_s"], limits["cpu_s"] + 1))
    # macOS does not enforce this limit; there, the limit of seconds bounds it.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limits["memory_bytes"],) * 2)
    answer: Any
    try:
        answer = list(_read(sys.stdin.buffer.read(), limits))
    except PayloadError as error:
        answer = {"field": error.field, "problem": error.problem}
    except MemoryError:
        megabytes = limits["memory_bytes"] >> 20
        answer = {"field": "VCALENDAR", "problem": f"reading it takes more than {megabytes} MB"}
    except Exception as error:
        # Only the feed was read here, so any error of the library means that the feed is wrong.
        answer = {"field": "VCALENDAR", "problem": f"{type(error).__name__}: {str(error)[:200]}"}
    json.dump(answer, sys.stdout)


def _read(body: bytes, limits: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the occurrences within the window, counted as they come."""
    first, last = (date.fromisoformat(limits[name]) for name in ("first", "last"))
    zone = ZoneInfo(limits["timezone"])
    count = days = categories = 0
    for event in _events(body, first, last):
        begin, end = _days(event, zone)
        if begin > last or end < first:
            continue
        count += 1
        days += (min(end, last) - max(begin, first)).days + 1
        if count > limits["occurrences"] or days > limits["days"]:
            raise PayloadError(
                "VEVENT",
                f"from {first} to {last} it has more than {limits['occurrences']:,} events, or "
                f"more than {limits['days']:,} days of them",
            )
        plain = _plain(event, begin, end)
        categories += len(plain[1])
        if categories > limits["categories"]:
            raise PayloadError(
                "CATEGORIES", f"its events have more than {limits['categories']:,} categories"
            )
        yield plain


def _events(body: bytes, first: date, last: date) -> Iterator[Event]:
    """Yield each time at which an event takes place around the window."""
    import recurring_ical_events
    from icalendar import Calendar

    calendar = _parsed(body)
    events = calendar.walk("VEVENT")
    uses = Counter(str(event.get("UID")) for event in events)
    # Most events take place once; what does not is left to the library, which takes its time.
    once = [event for event in events if uses[str(event.get("UID"))] == 1 and not _recurs(event)]
    others = Calendar(calendar)
    ids = {id(event) for event in once}
    others.subcomponents = [part for part in calendar.subcomponents if id(part) not in ids]
    # Days of other zones may be those before and after.
    start, end = first - timedelta(days=1), last + timedelta(days=2)
    try:
        query = recurring_ical_events.of(others)
        recurring = (event for series in query.series for event in series.between(start, end))
        yield from chain(once, (event.as_component(False) for event in recurring))
    except (ValueError, TypeError) as error:
        raise PayloadError("RRULE", str(error)[:200]) from error


def _recurs(event: Component) -> bool:
    return any(name in event for name in ("RRULE", "RDATE", "RECURRENCE-ID"))


def _parsed(body: bytes) -> Calendar:
    from icalendar import Calendar

    text = body.strip()
    if not text.startswith(b"BEGIN:VCALENDAR"):
        raise PayloadError("BEGIN:VCALENDAR", "it is no calendar")
    if not text.endswith(b"END:VCALENDAR"):
        raise PayloadError("END:VCALENDAR", "it ends early")
    often = _TOO_OFTEN.search(_FOLD.sub(b"", body))
    if often:
        raise PayloadError("RRULE", f"something takes place {often[1].decode().lower()}")
    try:
        calendar = Calendar.from_ical(body)
    except ValueError as error:
        raise PayloadError("BEGIN:VCALENDAR", str(error)) from error
    for event in calendar.walk("VEVENT"):
        for name, problem in event.errors:
            raise PayloadError(str(name), str(problem))
        if "DTSTART" not in event:
            raise PayloadError("DTSTART", f"the event {event.get('UID', '')} has none")
    assert isinstance(calendar, Calendar)
    return calendar


def _plain(event: Event, first: date, last: date) -> tuple[Any, ...]:
    changed: Any = next((event[name] for name in _CHANGED if name in event), None)
    return (
        str(event.get("SUMMARY", ""))[:_LONGEST],
        sorted({name[:_LONGEST] for name in islice(_categories(event), _CATEGORIES)}),
        first.isoformat(),
        last.isoformat(),
        None if changed is None else _aware(changed.dt).isoformat(),
        str(event.get("STATUS", "")).upper() == "CANCELLED",
    )


def _days(event: Event, zone: ZoneInfo) -> tuple[date, date]:
    try:
        start: Any = event.start
        end: Any = event.end
    except ValueError as error:
        raise PayloadError("DTEND", str(error)) from error
    if not isinstance(start, datetime):
        return start, max(start, end - timedelta(days=1))
    # A time without a zone is on the clocks of the place.
    start, end = (moment.astimezone(zone) if moment.tzinfo else moment for moment in (start, end))
    # What ends at midnight does not take place on the day that begins then.
    return start.date(), max(start, end - timedelta(microseconds=1)).date()


def _aware(moment: Any) -> datetime:
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)
    aware: datetime = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware


def _categories(event: Event) -> Iterator[str]:
    value: Any = event.get("CATEGORIES", [])
    for part in value if isinstance(value, list) else [value]:
        for name in getattr(part, "cats", [part]):
            yield str(name).strip().upper()


if __name__ == "__main__":
    main()
