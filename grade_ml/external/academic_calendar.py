"""How far the next exam period, term, holiday and deadlines are, from the registrar's feed.

Public holidays come from the package `holidays`, which needs no network. A past day is described
by the events that were known by then according to the feed; a feed without dates of change gives
no information about days before it was first read.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from grade_ml.core.errors import GradeMLError
from grade_ml.external.protocol import About, Observation, Place, RateLimit, Series, Window
from grade_ml.external.settings import ExternalSettings

if TYPE_CHECKING:
    from grade_ml.external.client import Client
    from grade_ml.external.ical import Occurrence

AHEAD_DAYS = 400
DEADLINES_WITHIN = timedelta(days=7)


class Kind(StrEnum):
    """What an event of the calendar means."""

    EXAM = "exam"
    DEADLINE = "deadline"
    HOLIDAY = "holiday"
    TERM = "term"


#: Words in an event's categories or, if it has none, in its summary; the first match counts.
WORDS = {
    Kind.EXAM: re.compile(r"\b(exam|examination|exams|assessment period)\b", re.IGNORECASE),
    Kind.DEADLINE: re.compile(r"\b(deadline|due|submission)\b", re.IGNORECASE),
    Kind.HOLIDAY: re.compile(r"\b(holiday|break|vacation|closure|reading week)\b", re.IGNORECASE),
    Kind.TERM: re.compile(r"\b(term|semester|trimester)\b", re.IGNORECASE),
}
_SERIES = {Kind.EXAM: "days_to_exam", Kind.TERM: "days_to_term", Kind.HOLIDAY: "days_to_holiday"}


def kind(occurrence: Occurrence) -> Kind | None:
    """Return what an event means, or None if it matters to no student's grade."""
    text = " ".join(sorted(occurrence.categories)) or occurrence.summary
    return next((meaning for meaning, words in WORDS.items() if words.search(text)), None)


@dataclass(frozen=True)
class AcademicCalendar:
    """Days to the next of each kind, and the number of deadlines ahead."""

    settings: ExternalSettings
    about = About(
        name="academic_calendar",
        title="Academic calendar",
        terms="The university's own feed; public holidays by the package holidays (MIT).",
        series=(
            *(Series(name, "days", keep=7, low=0, high=AHEAD_DAYS) for name in _SERIES.values()),
            Series("deadlines_7d", "deadlines", keep=7, low=0),
        ),
        lookback=0,
        ttl=timedelta(hours=24),
        settles=timedelta(days=1),
        limit=RateLimit(every=timedelta(seconds=10), burst=10),
        freshness=timedelta(days=7),
    )

    def fetch(
        self, client: Client, window: Window, place: Place, now: datetime
    ) -> Iterator[Observation]:
        """Yield the distances of each day; those to public holidays even without a feed."""
        from grade_ml.external.ical import occurrences

        ahead = Window(window.first, window.last + timedelta(days=AHEAD_DAYS))
        feed: list[Occurrence] = []
        problem = None
        try:
            feed = occurrences(client, self.about, self.settings.url("calendar_url"), ahead, place)
        except GradeMLError as error:
            problem = error
        meaningful = [(event, meaning) for event in feed if (meaning := kind(event))]
        public = _public_holidays(place.country, ahead)
        today = now.astimezone(place.zone).date()
        for day in window.days():
            end = place.end_of(day)
            moment = end if day < today else None
            known = [(event, meaning) for event, meaning in meaningful if event.is_expected(moment)]
            for name, value in _distances(day, known, public, has_feed=problem is None):
                yield Observation(name, day, min(end, now), value)
        if problem is not None:
            raise problem


def _distances(
    day: date,
    known: Sequence[tuple[Occurrence, Kind]],
    public: Sequence[date],
    *,
    has_feed: bool,
) -> Iterator[tuple[str, float | None]]:
    """Yield each series with its value on `day`; without a feed only what needs none."""
    of_kind: dict[Kind, list[Occurrence]] = defaultdict(list)
    for event, meaning in known:
        of_kind[meaning].append(event)
    for event_kind, series in _SERIES.items():
        ahead = [_days_until(day, event) for event in of_kind[event_kind] if event.last >= day]
        if event_kind is Kind.HOLIDAY:
            ahead += [(holiday - day).days for holiday in public if holiday >= day]
        elif event_kind is Kind.TERM:
            ahead = [
                (event.first - day).days for event in of_kind[event_kind] if event.first >= day
            ]
        if has_feed or ahead:
            yield series, min(ahead, default=None)
    deadlines = of_kind[Kind.DEADLINE]
    if has_feed:
        soon = [deadline for deadline in deadlines if day <= deadline.last < day + DEADLINES_WITHIN]
        yield "deadlines_7d", len(soon) if deadlines else None


def _days_until(day: date, occurrence: Occurrence) -> int:
    return max((occurrence.first - day).days, 0)


def _public_holidays(country: str, window: Window) -> list[date]:
    import holidays

    years = range(window.first.year, window.last.year + 1)
    try:
        return sorted(holidays.country_holidays(country, years=years))
    except NotImplementedError:
        return []
