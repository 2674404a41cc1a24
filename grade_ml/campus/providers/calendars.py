"""The academic calendar and the campus's events, as iCalendar feeds.

The number of events on a day follows the campus's condition `campus_events`. They come in every
shape that a feed may have (weekly with exceptions, moved, cancelled, all day, over several days, on
the clock of a zone and of UTC); only a client that reads all shapes correctly gets the counts of
`World.event_counts`.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np

from grade_ml.campus.providers import ics
from grade_ml.campus.providers.answers import Answer, Query
from grade_ml.campus.providers.world import TIMEZONE, Stream, World, days_between
from grade_ml.campus.simulated.calendar import LENGTH, Term
from grade_ml.campus.simulated.model import Course, course

ICS = "text/calendar; charset=utf-8"
#: Exams are due 14 days before the end of a term, give or take two.
EXAMS_FROM, EXAMS_TO = LENGTH - 18, LENGTH - 10
READING_WEEK = 8 * 7
#: Events are announced four weeks ahead; whether they are cancelled shows three days before.
ANNOUNCED, CANCELLED = 28, 3
CANCELLED_SHARE = 0.1

_WEDNESDAY, _FRIDAY = 2, 4
_KINDS = ("Concert", "Debate", "Career fair", "Guest lecture", "Match", "Play", "Workshop")


def academic(world: World, query: Query) -> Answer:
    """Answer `academic.ics`: terms, deadlines, exam periods, reading weeks, holidays."""
    calendar = _holidays()
    courses = [course(world.config, number) for number in range(world.config.courses)]
    for term in world.terms:
        calendar += _term_events(world, term)
        for taught in courses:
            calendar += _deadlines(term, taught)
    return Answer(ics.calendar("Academic calendar (simulated)", calendar), ICS)


def events(world: World, query: Query) -> Answer:
    """Answer `events.ics`: from the first term of the campus to four weeks ahead."""
    return Answer(_events_feed(world), ICS)


def _term_events(world: World, term: Term) -> list[ics.Event]:
    start, stamp = term.starts_on, term.starts_on - timedelta(days=366)
    exams = [start + timedelta(days=days) for days in (EXAMS_FROM, EXAMS_TO)]
    reading = start + timedelta(days=READING_WEEK)
    open_day = start + timedelta(days=READING_WEEK + 19)
    is_off = term.number % 3 == 0 and world.today >= open_day - timedelta(days=CANCELLED)
    return [
        ics.event(
            f"term-{term.code}",
            f"{term.title} term",
            stamp,
            *ics.all_day(start, term.ends_on),
            "CATEGORIES:TERM",
        ),
        ics.event(
            f"exams-{term.code}",
            f"Exam period, {term.title}",
            stamp,
            *ics.all_day(*exams),
            "CATEGORIES:EXAM",
        ),
        ics.event(
            f"reading-{term.code}",
            f"Reading week, {term.title}",
            stamp,
            *ics.all_day(reading, reading + timedelta(days=6)),
            "CATEGORIES:BREAK",
        ),
        ics.event(
            f"open-{term.code}",
            f"Open day, {term.title}",
            open_day - timedelta(days=CANCELLED) if is_off else stamp,
            *ics.all_day(open_day, open_day),
            "CATEGORIES:OTHER",
            f"STATUS:{'CANCELLED' if is_off else 'CONFIRMED'}",
            f"SEQUENCE:{int(is_off)}",
        ),
    ]


def _deadlines(term: Term, course: Course) -> list[ics.Event]:
    """Return the planned days of a course's work; lecturers move some by up to two days."""
    days = [term.starts_on + timedelta(days=due) for due in course.due_day.tolist()]
    stamp = term.starts_on - timedelta(days=ANNOUNCED)
    return [
        ics.event(
            f"due-{course.course_id}-{term.code}-{title.replace(' ', '-')}",
            f"{course.title}: {title} due",
            stamp,
            *ics.all_day(day, day),
            "CATEGORIES:DEADLINE",
        )
        for title, day in zip(course.titles, days, strict=True)
    ]


def _holidays() -> list[ics.Event]:
    """Return the holidays, which recur every year."""
    stamp = date(2000, 1, 1)
    return [
        ics.event(
            "winter",
            "Holiday: winter closure",
            stamp,
            *ics.all_day(date(2000, 12, 24), date(2001, 1, 2)),
            "RRULE:FREQ=YEARLY",
            "CATEGORIES:HOLIDAY",
        ),
        ics.event(
            "may",
            "Holiday: May Day",
            stamp,
            *ics.all_day(date(2000, 5, 1), date(2000, 5, 1)),
            "RRULE:FREQ=YEARLY;BYMONTH=5;BYDAY=1MO",
            "EXDATE;VALUE=DATE:20200504",
            "CATEGORIES:HOLIDAY",
        ),
        ics.event(
            "may-2020",
            "Holiday: May Day, moved",
            stamp,
            *ics.all_day(date(2020, 5, 8), date(2020, 5, 8)),
            "CATEGORIES:HOLIDAY",
        ),
        ics.event(
            "leap",
            "Holiday: Leap Day",
            stamp,
            *ics.all_day(date(2000, 2, 29), date(2000, 2, 29)),
            "RRULE:FREQ=YEARLY;INTERVAL=4",
            "CATEGORIES:HOLIDAY",
        ),
    ]


@lru_cache(maxsize=4)
def _events_feed(world: World) -> bytes:
    first, last = world.terms[0].starts_on, world.today + timedelta(days=ANNOUNCED)
    days = days_between(first, last)
    left = world.event_counts(first, last)
    calendar = [
        *_festivals(days, left),
        *_market(days, left),
        *(
            event
            for day, count in zip(days, left, strict=True)
            for event in _single_events(world, day, int(count))
        ),
    ]
    return ics.calendar("Campus events (simulated)", calendar)


def _festivals(days: list[date], left: np.ndarray) -> list[ics.Event]:
    """Return festivals from a month's first Friday to Sunday; takes their places from `left`."""
    festivals = []
    for place, day in enumerate(days[:-2]):
        weekend = slice(place, place + 3)
        if day.weekday() == _FRIDAY and day.day <= 7 and left[weekend].min() >= 1:
            left[weekend] -= 1
            festivals.append(
                ics.event(
                    f"festival-{day:%Y%m%d}",
                    "Film festival",
                    day - timedelta(days=ANNOUNCED),
                    *ics.all_day(day, day + timedelta(days=2)),
                )
            )
    return festivals


def _market(days: list[date], left: np.ndarray) -> list[ics.Event]:
    """Return a weekly market with exceptions; takes its places from `left`.

    It is left out in the winter closure and if the day has no place left; in March the first
    market is cancelled, and in September the first market is held later that day.
    """
    wednesdays = [n for n, day in enumerate(days) if day.weekday() == _WEDNESDAY]
    if not wednesdays:
        return []
    noon = [datetime.combine(days[n], time(12)) for n in wednesdays]
    excluded, changed = [], []
    for n, start in zip(wednesdays, noon, strict=True):
        is_first = start.day <= 7
        stamp = start.date() - timedelta(days=ANNOUNCED)
        instance = ics.zoned("RECURRENCE-ID", start)
        if is_first and start.month == 3:
            lines = (*_hours(start, 2), instance, "STATUS:CANCELLED")
            changed.append(ics.event("market", "Open-air market", stamp, *lines))
        elif left[n] == 0 or _is_winter_closure(start):
            excluded.append(ics.zoned("EXDATE", start))
        else:
            left[n] -= 1
            if is_first and start.month == 9:
                lines = (*_hours(start.replace(hour=15), 2), instance)
                changed.append(ics.event("market", "Open-air market, moved", stamp, *lines))
    until = noon[-1].replace(tzinfo=ZoneInfo(TIMEZONE)).astimezone(ZoneInfo("UTC"))
    rule = f"RRULE:FREQ=WEEKLY;BYDAY=WE;UNTIL={until:%Y%m%dT%H%M%SZ}"
    series = (*_hours(noon[0], 2), rule, *excluded)
    return [ics.event("market", "Open-air market", days[0], *series), *changed]


def _is_winter_closure(day: date) -> bool:
    return day.strftime("%m%d") >= "1224" or day.strftime("%m%d") <= "0102"


def _single_events(world: World, day: date, count: int) -> list[ics.Event]:
    random = world.generator(Stream.EVENTS, day.toordinal())
    kinds = random.integers(0, len(_KINDS), count + 1)
    hours = random.integers(10, 19, count + 1)
    shapes = random.integers(0, 4, count + 1)
    stamp = day - timedelta(days=ANNOUNCED)
    made = [
        ics.event(
            f"event-{day:%Y%m%d}-{n}",
            _KINDS[kinds[n]],
            stamp,
            *_shaped(int(shapes[n]), datetime.combine(day, time(int(hours[n])))),
        )
        for n in range(count)
    ]
    if random.random() < CANCELLED_SHARE:
        made.append(_cancelled(world, day, _KINDS[kinds[count]], stamp))
    return made


def _shaped(shape: int, start: datetime) -> ics.Event:
    """Return when an event of one to two hours, or of a whole day, takes place."""
    match shape:
        case 0:
            return ics.all_day(start.date(), start.date())
        case 1:
            return (f"DTSTART:{start:%Y%m%dT%H%M%SZ}", "DURATION:PT1H30M")
        case _:
            return _hours(start, 1)


def _hours(start: datetime, hours: int) -> ics.Event:
    end = start + timedelta(hours=hours)
    return (ics.zoned("DTSTART", start), ics.zoned("DTEND", end))


def _cancelled(world: World, day: date, kind: str, stamp: date) -> ics.Event:
    """Return a cancelled event; the cancellation shows only some days before."""
    known = day - timedelta(days=CANCELLED)
    is_off = world.today >= known
    return ics.event(
        f"event-{day:%Y%m%d}-x",
        kind,
        known if is_off else stamp,
        *_hours(datetime.combine(day, time(17)), 1),
        f"STATUS:{'CANCELLED' if is_off else 'CONFIRMED'}",
        f"SEQUENCE:{int(is_off)}",
    )
