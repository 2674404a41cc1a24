"""How feeds are read: recurrence, exceptions, whole days, several days, zones, cancellations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from grade_ml.external import ical
from grade_ml.external.academic_calendar import AcademicCalendar
from grade_ml.external.campus_events import CampusEvents
from grade_ml.external.ical import occurrences
from grade_ml.external.protocol import PayloadError, Place, ProviderError, Window
from grade_ml.external.settings import ExternalSettings
from grade_ml.external.source import Source

LONDON = Place(51.5, -0.1, "GBR", "Europe/London")
NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)


@contextmanager
def feed(*events: str) -> Iterator[str]:
    """Serve a calendar of `events`, each the lines of one, and yield its address."""
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:test"]
    for number, event in enumerate(events):
        own = event.split()
        uid = [] if any(line.startswith("UID") for line in own) else [f"UID:{number}"]
        lines += ["BEGIN:VEVENT", *uid, *own, "END:VEVENT"]
    body = "\r\n".join([*lines, "END:VCALENDAR", ""]).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/calendar")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/feed.ics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def days(client: Callable) -> Callable[..., list[tuple[date, date]]]:
    """Read the first and last days of what a feed lets take place in spring 2024."""

    def read(*events: str, place: Place = LONDON) -> list[tuple[date, date]]:
        window = Window(date(2024, 2, 1), date(2024, 6, 30))
        with feed(*events) as url:
            listed = occurrences(client(NOW), CampusEvents.about, url, window, place)
        return [(event.first, event.last) for event in listed]

    return read


def day(month: int, number: int) -> tuple[date, date]:
    return (date(2024, month, number), date(2024, month, number))


def test_a_weekly_event_without_its_exception(days):
    assert days(
        "DTSTART;TZID=Europe/London:20240318T090000 DURATION:PT1H RRULE:FREQ=WEEKLY;COUNT=4 "
        "EXDATE;TZID=Europe/London:20240325T090000"
    ) == [day(3, 18), day(4, 1), day(4, 8)]


def test_an_instance_that_is_moved(days):
    assert days(
        "UID:w DTSTART:20240318T090000Z DURATION:PT1H RRULE:FREQ=WEEKLY;COUNT=2",
        "UID:w RECURRENCE-ID:20240325T090000Z DTSTART:20240327T090000Z DURATION:PT1H",
    ) == [day(3, 18), day(3, 27)]


def test_a_whole_day_ends_before_the_next(days):
    assert days("DTSTART;VALUE=DATE:20240229 DTEND;VALUE=DATE:20240301") == [day(2, 29)]
    assert days("DTSTART;VALUE=DATE:20240229") == [day(2, 29)]


def test_several_days(days):
    assert days("DTSTART;VALUE=DATE:20240228 DTEND;VALUE=DATE:20240302") == [
        (date(2024, 2, 28), date(2024, 3, 1))
    ]
    # It ends at midnight, so nothing of it takes place on the day that begins then.
    assert days("DTSTART:20240510T200000Z DTEND:20240511T230000Z") == [
        (date(2024, 5, 10), date(2024, 5, 11))
    ]


def test_the_newest_version_of_an_event_counts(days):
    old = "UID:e SEQUENCE:0 DTSTART:20240510T100000Z DURATION:PT1H"
    new = "UID:e SEQUENCE:1 DTSTART:20240517T100000Z DURATION:PT1H"
    assert days(old, new) == [day(5, 17)]


def test_an_extra_date(days):
    assert days("DTSTART:20240510T100000Z DURATION:PT1H RDATE:20240517T100000Z") == [
        day(5, 10),
        day(5, 17),
    ]


def test_days_are_those_of_the_place(days):
    late = "DTSTART:20240610T233000Z DTEND:20240610T235900Z"
    assert days(late) == [day(6, 11)]
    assert days(late, place=Place(40.7, -74, "USA", "America/New_York")) == [day(6, 10)]
    assert days("DTSTART;TZID=America/New_York:20240610T200000 DURATION:PT1H") == [day(6, 11)]
    assert days("DTSTART:20240610T233000 DURATION:PT20M") == [day(6, 10)]


def test_a_weekly_event_keeps_its_hour_when_clocks_change(days):
    """At 00:30 in London; one hour off, it would take place on the day before."""
    assert days(
        "DTSTART;TZID=Europe/London:20240324T003000 DURATION:PT20M RRULE:FREQ=WEEKLY;COUNT=2"
    ) == [day(3, 24), day(3, 31)]


@pytest.mark.parametrize(
    "event",
    [
        "DTEND:20240301T100000Z",
        "DTSTART:yesterday",
        "DTSTART:20240301T100000Z RRULE:FREQ=OFTEN",
        "DTSTART:20240301T100000Z DTEND;VALUE=DATE:20240302",
    ],
)
def test_an_event_that_cannot_be_read_is_named(days, event: str):
    with pytest.raises(ProviderError) as caught:
        days(event)
    assert caught.value.field in ("DTSTART", "DTEND", "RRULE")


def observe(source: type, client: Callable, window: Window, *events: str) -> dict:
    """Return the values of each series by day."""
    with feed(*events) as url:
        settings = ExternalSettings(_env_file=None, calendar_url=url, events_url=url)
        ready: Source = source(settings)
        rows = list(ready.fetch(client(NOW), window, LONDON, NOW))
    assert all(row.available_at <= NOW for row in rows)
    return {(row.series, row.observed_on): row.value for row in rows}


TOLD = "DTSTAMP:20240101T000000Z"


def test_distances_of_the_academic_calendar(client):
    window = Window(date(2024, 5, 1), date(2024, 5, 31))
    values = observe(
        AcademicCalendar,
        client,
        window,
        f"{TOLD} CATEGORIES:EXAM DTSTART;VALUE=DATE:20240513 DTEND;VALUE=DATE:20240525",
        f"{TOLD} SUMMARY:Semester DTSTART;VALUE=DATE:20240603 DTEND;VALUE=DATE:20240901",
        f"{TOLD} SUMMARY:Essay-deadline DTSTART;VALUE=DATE:20240510",
        f"{TOLD} SUMMARY:Thesis-due DTSTART:20240514T120000Z",
    )
    assert [values["days_to_exam", date(2024, 5, n)] for n in (1, 12, 13, 24)] == [12, 1, 0, 0]
    assert values["days_to_exam", date(2024, 5, 25)] is None
    assert values["days_to_term", date(2024, 5, 31)] == 3
    assert values["days_to_holiday", date(2024, 5, 20)] == 7  # the spring bank holiday
    assert [values["deadlines_7d", date(2024, 5, n)] for n in (3, 4, 8, 11, 15)] == [0, 1, 2, 1, 0]


def test_an_event_counts_from_the_day_on_which_it_was_known(client):
    window = Window(date(2024, 5, 1), date(2024, 5, 20))
    values = observe(
        AcademicCalendar,
        client,
        window,
        "DTSTAMP:20240510T080000Z CATEGORIES:EXAM DTSTART;VALUE=DATE:20240520",
    )
    assert values["days_to_exam", date(2024, 5, 9)] is None
    assert values["days_to_exam", date(2024, 5, 10)] == 10


def test_a_feed_without_dates_of_change_describes_only_today(client):
    """Its stamp is that of the moment at which it is read."""
    window = Window(date(2024, 5, 30), NOW.date())
    event = f"DTSTAMP:{NOW:%Y%m%dT%H%M%SZ} DTSTART:20240530T100000Z RRULE:FREQ=DAILY;COUNT=10"
    values = observe(CampusEvents, client, window, event)
    assert [values["events", observed_on] for observed_on in window.days()] == [None, None, 1]


def test_events_of_a_day_and_of_a_week(client):
    window = Window(date(2024, 4, 25), date(2024, 5, 12))
    values = observe(
        CampusEvents,
        client,
        window,
        f"{TOLD} DTSTART;VALUE=DATE:20240503 DTEND;VALUE=DATE:20240506",
        f"{TOLD} DTSTART:20240504T100000Z DURATION:PT1H",
        f"{TOLD} DTSTART:20240509T100000Z DURATION:PT1H",
    )
    assert [values["events", date(2024, 5, n)] for n in (3, 4, 5, 6, 9)] == [1, 2, 1, 0, 1]
    assert [values["events_7d", date(2024, 5, n)] for n in (3, 4, 6)] == [3, 3, 1]
    # Outside of what the feed covers nothing is known, which is not nothing taking place.
    assert values["events", date(2024, 5, 10)] is None
    assert values["events", date(2024, 4, 25)] is None


def test_a_cancellation_counts_from_the_day_on_which_it_was_made(client):
    window = Window(date(2024, 5, 6), date(2024, 5, 14))
    values = observe(
        CampusEvents,
        client,
        window,
        f"{TOLD} DTSTART:20240506T100000Z DURATION:PT1H RRULE:FREQ=DAILY;COUNT=9",
        "DTSTAMP:20240508T100000Z STATUS:CANCELLED DTSTART:20240510T100000Z DURATION:PT1H",
    )
    assert values["events_7d", date(2024, 5, 7)] == 8
    assert values["events_7d", date(2024, 5, 8)] == 7
    assert values["events", date(2024, 5, 10)] == 1


def test_holidays_need_no_feed(client):
    ready = AcademicCalendar(ExternalSettings(_env_file=None))
    window = Window(date(2024, 12, 24), date(2024, 12, 24) + timedelta(days=1))
    rows = []
    with pytest.raises(Exception, match="No iCalendar feed is set"):
        rows.extend(ready.fetch(client(NOW), window, LONDON, datetime(2025, 1, 1, tzinfo=UTC)))
    assert {row.series for row in rows} == {"days_to_holiday"}
    assert [row.value for row in rows] == [1, 0]


START = "DTSTART:20240301T100000Z"
SPRING = Window(date(2024, 2, 1), date(2024, 6, 30))


def calendar(*parts: str) -> bytes:
    return "\r\n".join(["BEGIN:VCALENDAR", *parts, "END:VCALENDAR", ""]).encode()


def event(*lines: str, uid: object = 1) -> str:
    return "\r\n".join(["BEGIN:VEVENT", f"UID:{uid}", *lines, "END:VEVENT"])


def zone(rule: str) -> str:
    inside = ["DTSTART:19700101T000000", "TZOFFSETFROM:+0000", "TZOFFSETTO:+0100", rule]
    standard = ["BEGIN:STANDARD", *inside, "END:STANDARD"]
    return "\r\n".join(["BEGIN:VTIMEZONE", "TZID:Own/Zone", *standard, "END:VTIMEZONE"])


EVERY_SECOND = ";".join(
    f"{part}={','.join(map(str, range(size)))}"
    for part, size in (("BYHOUR", 24), ("BYMINUTE", 60), ("BYSECOND", 60))
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> ical.Limits:
    """Limits of which a test need not wait for the end."""
    limits = ical.Limits(
        occurrences=5_000,
        days=20_000,
        categories=20_000,
        cpu_s=2,
        wall_s=60,
        memory_bytes=1 << 29,
    )
    monkeypatch.setattr(ical, "LIMITS", limits)
    return limits


@pytest.mark.slow
@pytest.mark.security
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (calendar(event(START, "RRULE:FREQ=SECONDLY")), "takes place secondly"),
        (calendar(event(START, "RRULE:INTERVAL=1;FREQ=MINU\r\n TELY")), "takes place minutely"),
        (calendar(zone("RRULE:FREQ=SECONDLY"), event(START)), "takes place secondly"),
        (calendar(event(START, f"RRULE:FREQ=DAILY;{EVERY_SECOND}")), "takes more than 512 MB|2 s"),
        (calendar(event("DTSTART:00010101T000000Z", "RRULE:FREQ=HOURLY")), "more than 2 s"),
        (
            calendar(*(event(START, "RRULE:FREQ=DAILY", uid=n) for n in range(2_000))),
            "5,000 events",
        ),
        (calendar(*(event(START, uid=n) for n in range(6_000))), "5,000 events"),
        (
            calendar(
                *(
                    event("DTSTART;VALUE=DATE:00020101", "DTEND;VALUE=DATE:99980101", uid=n)
                    for n in range(500)
                )
            ),
            "20,000 days",
        ),
        (
            calendar(
                event(START, "RDATE:" + ",".join(f"20240401T10{n:04d}Z" for n in range(5959)))
            ),
            "VEVENT|RDATE|RRULE",
        ),
        (
            calendar(
                event(
                    START,
                    "RRULE:FREQ=HOURLY",
                    "CATEGORIES:" + ",".join(f"C{n}" for n in range(50)),
                )
            ),
            "20,000 categories",
        ),
    ],
    ids=[
        *("each second", "each minute", "zone", "parts", "since the year 1", "daily events"),
        *("events", "centuries", "dates", "categories"),
    ],
)
def test_a_feed_without_end_is_refused_with_what_it_exceeds(body: bytes, reason: str, small):
    with pytest.raises(PayloadError, match=reason):
        ical._read_apart(body, SPRING, LONDON)


@pytest.mark.security
@pytest.mark.parametrize(
    "lines",
    [
        ["RRULE:FREQ=DAILY", *(f"EXDATE:20240401T10{n:04d}Z" for n in range(5959))],
        ["RRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"],
        [f"ATTENDEE:{n}" for n in range(20_000)],
        ["DESCRIPTION:" + "x" * 1_000_000],
        ["BEGIN:VALARM"] * 20_000 + ["END:VALARM"] * 20_000,
    ],
    ids=["exceptions", "never", "attendees", "long", "nested"],
)
def test_a_feed_that_requires_much_is_read_or_refused_but_ends(lines: list[str], small):
    try:
        assert ical._read_apart(calendar(event(START, *lines)), SPRING, LONDON)
    except PayloadError as error:
        assert error.problem


@pytest.mark.security
def test_rules_without_an_end_are_read_as_far_as_the_window_goes(days):
    assert len(days(f"{START} DURATION:PT1H RRULE:FREQ=WEEKLY")) == 18


@pytest.mark.security
def test_what_lasts_for_centuries_counts_within_the_window(client: Callable):
    with feed("DTSTART;VALUE=DATE:00020101 DTEND;VALUE=DATE:99980101") as url:
        source = CampusEvents(ExternalSettings(_env_file=None, events_url=url))
        window = Window(date(2024, 6, 1), date(2024, 6, 1))
        values = {
            observation.series: observation.value
            for observation in source.fetch(client(NOW), window, LONDON, NOW)
        }
    assert values == {"events": 1, "events_7d": 1}
