"""How much takes place on the campus, from its iCalendar feed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from grade_ml.external.protocol import About, Observation, Place, RateLimit, Series, Window
from grade_ml.external.settings import ExternalSettings

if TYPE_CHECKING:
    from grade_ml.external.client import Client
    from grade_ml.external.ical import Occurrence

WEEK = 7


@dataclass(frozen=True)
class CampusEvents:
    """Number of events on a day, and in the seven days that start with it."""

    settings: ExternalSettings
    about = About(
        name="campus_events",
        title="Campus events",
        terms="The university's own feed.",
        series=(
            Series("events", "events", keep=3, low=0),
            Series("events_7d", "events", keep=3, low=0),
        ),
        lookback=0,
        ttl=timedelta(hours=24),
        settles=timedelta(days=1),
        limit=RateLimit(every=timedelta(seconds=10), burst=10),
        freshness=timedelta(days=3),
    )

    def fetch(
        self, client: Client, window: Window, place: Place, now: datetime
    ) -> Iterator[Observation]:
        """Yield the counts of each day from what was announced by then.

        Before the first and after the last event that the feed has, nothing is known.
        """
        from grade_ml.external.ical import occurrences

        around = Window(window.first - timedelta(days=WEEK), window.last + timedelta(days=2 * WEEK))
        feed = occurrences(client, self.about, self.settings.url("events_url"), around, place)
        by_day: dict[date, list[Occurrence]] = defaultdict(list)
        for event in feed:
            # An event that lasts for centuries is counted within the window only.
            for day in Window(max(event.first, around.first), min(event.last, around.last)).days():
                by_day[day].append(event)
        first, last = min(by_day, default=date.max), max(by_day, default=date.min)
        today = now.astimezone(place.zone).date()
        for day in window.days():
            end = place.end_of(day)
            moment = end if day < today else None
            week = Window(day, day + timedelta(days=WEEK - 1))
            ahead = [event for later_day in week.days() for event in by_day[later_day]]
            known = {event for event in ahead if event.is_expected(moment)}
            is_covered = first <= day <= last and (moment is None or _is_known(feed, moment))
            today_count = len({event for event in by_day[day] if event in known})
            for name, count in (("events", today_count), ("events_7d", len(known))):
                yield Observation(name, day, min(end, now), count if is_covered else None)


def _is_known(feed: list[Occurrence], moment: datetime) -> bool:
    """Return whether any event of the feed was known by `moment`."""
    return any(event.known_since is None or event.known_since <= moment for event in feed)
