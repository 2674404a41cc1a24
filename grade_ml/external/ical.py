"""Reads iCalendar feeds (RFC 5545): what takes place on which days, and since when that is known.

A process of its own reads a feed (`ical_reading`): a rule of one line can keep a library busy for
days, inside one call, where only the operating system can stop it. The sources decide what an event
means.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING

from grade_ml.external.protocol import About, PayloadError, Place, Request, Window

if TYPE_CHECKING:
    from grade_ml.external.client import Client

#: Not every web server knows the type of a calendar.
TYPES = frozenset({"text/calendar", "text/plain", "application/octet-stream"})


@dataclass(frozen=True)
class Limits:
    """Limits of reading one feed.

    Attributes
    ----------
    occurrences
        Within the window: 250 events on each of 400 days.
    days, categories
        Of all occurrences together, within the window.
    cpu_s, wall_s
        Seconds of computing, and on the clock. 20,000 single events or 24,000 recurrences take
        about 4 s of computing, and the largest feed that is fetched (20 MB) has 200,000 events.
    memory_bytes
        Address space of the process that reads.
    """

    occurrences: int = 100_000
    days: int = 1_000_000
    categories: int = 500_000
    cpu_s: int = 120
    wall_s: int = 600
    memory_bytes: int = 2 << 30


LIMITS = Limits()


@dataclass(frozen=True)
class Occurrence:
    """One time at which an event takes place.

    Parameters
    ----------
    first, last
        Its days at the place, both included.
    known_since
        When it was last changed, as the feed states; `None` if it does not state it.
    """

    summary: str
    categories: frozenset[str]
    first: date
    last: date
    known_since: datetime | None
    is_cancelled: bool

    def is_expected(self, moment: datetime | None) -> bool:
        """Return whether it was known at `moment` (`None` means today) that it takes place.

        A cancellation counts from the moment it was made; before, the event was expected.
        """
        is_known = moment is None or self.known_since is None or self.known_since <= moment
        return is_known is not self.is_cancelled


def occurrences(
    client: Client, about: About, url: str, window: Window, place: Place
) -> list[Occurrence]:
    """Return what the feed at `url` lets take place within `window`, by first day."""
    events = client.get(
        about, Request(url, types=TYPES), lambda body: _read_apart(body, window, place)
    )
    return sorted(events, key=lambda event: (event.first, event.last, event.summary))


def _read_apart(body: bytes, window: Window, place: Place) -> list[Occurrence]:
    """Have another process read a feed, within `LIMITS`."""
    limits = {
        "first": window.first.isoformat(),
        "last": window.last.isoformat(),
        "timezone": place.timezone,
        "occurrences": LIMITS.occurrences,
        "days": LIMITS.days,
        "categories": LIMITS.categories,
        "cpu_s": LIMITS.cpu_s,
        "memory_bytes": LIMITS.memory_bytes,
    }
    command = [sys.executable, "-P", "-m", "grade_ml.external.ical_reading", json.dumps(limits)]
    try:
        done = subprocess.run(
            command, input=body, capture_output=True, timeout=LIMITS.wall_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PayloadError("VCALENDAR", f"reading it took more than {LIMITS.wall_s} s") from error
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise PayloadError("VCALENDAR", f"reading it took more than {LIMITS.cpu_s} s of computing")
    if done.returncode:
        raise PayloadError("VCALENDAR", f"the process that read it ended with {done.returncode}")
    answer = json.loads(done.stdout)
    if isinstance(answer, dict):
        raise PayloadError(answer["field"], answer["problem"])
    return [
        Occurrence(
            summary,
            frozenset(categories),
            date.fromisoformat(first),
            date.fromisoformat(last),
            None if since is None else datetime.fromisoformat(since),
            is_cancelled,
        )
        for summary, categories, first, last, since, is_cancelled in answer
    ]
