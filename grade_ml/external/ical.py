"""Reads iCalendar feeds (RFC 5545): what takes place on which days, and since when that is known.

Recurrences, their exceptions and moved instances, whole days, several days and time zones are
resolved here; what an event means is the sources' business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from grade_ml.external.protocol import About, PayloadError, Place, Request, Window

if TYPE_CHECKING:
    from icalendar import Calendar, Component, Event

    from grade_ml.external.client import Client

#: Not every web server knows the type of a calendar.
TYPES = frozenset({"text/calendar", "text/plain", "application/octet-stream"})
#: What says when an event was last changed; the first that it has counts.
_CHANGED = ("LAST-MODIFIED", "CREATED", "DTSTAMP")


@dataclass(frozen=True)
class Occurrence:
    """One time at which an event takes place.

    Parameters
    ----------
    first, last
        Its days at the place, both included.
    known_since
        When the feed says that it was last changed; None: it does not say.
    """

    summary: str
    categories: frozenset[str]
    first: date
    last: date
    known_since: datetime | None
    is_cancelled: bool

    def is_expected(self, moment: datetime | None) -> bool:
        """Return whether it was known at `moment` (None: today) that it takes place.

        A cancellation counts from the moment it was made; before, the event was expected.
        """
        is_known = moment is None or self.known_since is None or self.known_since <= moment
        return is_known is not self.is_cancelled


def occurrences(
    client: Client, about: About, url: str, window: Window, place: Place
) -> list[Occurrence]:
    """Return what the feed at `url` lets take place within `window`, by first day."""
    found = client.get(
        about, Request(url, types=TYPES), lambda body: _occurrences(body, window, place)
    )
    return sorted(found, key=lambda one: (one.first, one.last, one.summary))


def _occurrences(body: bytes, window: Window, place: Place) -> list[Occurrence]:
    import recurring_ical_events
    from icalendar import Calendar

    calendar = _read(body)
    events = calendar.walk("VEVENT")
    uses = Counter(str(event.get("UID")) for event in events)
    # Most events take place once; what does not is left to the library, which takes its time.
    once = [event for event in events if uses[str(event.get("UID"))] == 1 and not _recurs(event)]
    others = Calendar(calendar)
    ids = {id(event) for event in once}
    others.subcomponents = [part for part in calendar.subcomponents if id(part) not in ids]
    # Days of other zones may be those before and after.
    start, end = window.first - timedelta(days=1), window.last + timedelta(days=2)
    try:
        recurring = recurring_ical_events.of(others).between(start, end)
    except (ValueError, TypeError) as error:
        raise PayloadError("RRULE", str(error)) from error
    found = [_occurrence(event, place) for event in (*once, *recurring)]
    return [one for one in found if one.first <= window.last and one.last >= window.first]


def _recurs(event: Component) -> bool:
    return any(name in event for name in ("RRULE", "RDATE", "RECURRENCE-ID"))


def _read(body: bytes) -> Calendar:
    from icalendar import Calendar

    text = body.strip()
    if not text.startswith(b"BEGIN:VCALENDAR"):
        raise PayloadError("BEGIN:VCALENDAR", "it is no calendar")
    if not text.endswith(b"END:VCALENDAR"):
        raise PayloadError("END:VCALENDAR", "it ends early")
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


def _occurrence(event: Event, place: Place) -> Occurrence:
    first, last = _days(event, place)
    changed: Any = next((event[name] for name in _CHANGED if name in event), None)
    return Occurrence(
        summary=str(event.get("SUMMARY", "")),
        categories=frozenset(_categories(event)),
        first=first,
        last=last,
        known_since=None if changed is None else _aware(changed.dt),
        is_cancelled=str(event.get("STATUS", "")).upper() == "CANCELLED",
    )


def _days(event: Event, place: Place) -> tuple[date, date]:
    try:
        start: Any = event.start
        end: Any = event.end
    except ValueError as error:
        raise PayloadError("DTEND", str(error)) from error
    if not isinstance(start, datetime):
        return start, max(start, end - timedelta(days=1))
    # A time without a zone is on the clocks of the place.
    start, end = (
        moment.astimezone(place.zone) if moment.tzinfo else moment for moment in (start, end)
    )
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
