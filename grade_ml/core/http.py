"""What every client of HTTP needs, whatever it asks for: bounded bodies, pauses, and a clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx


class BodyError(Exception):
    """A body that is too much, or too slow; the text continues "its answer"."""


class Clock:
    """The time that limits go by, and waiting for them."""

    def now(self) -> datetime:
        """Return the moment."""
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def body(reply: httpx.Response, max_bytes: int, total_s: float) -> bytes:
    """Return the unpacked body; neither endless drops nor endless bytes get far.

    Raises
    ------
    BodyError
        It has more than `max_bytes`, or was not complete after `total_s` seconds.
    """
    deadline = time.monotonic() + total_s
    parts, size = [], 0
    for part in reply.iter_bytes():
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise BodyError(f"has more than {max_bytes >> 20} MB")
        if time.monotonic() > deadline:
            raise BodyError(f"was not complete after {total_s:g} seconds")
    return b"".join(parts)


def retry_after(value: str | None, now: datetime) -> timedelta:
    """Return the pause that a header Retry-After asks for, in seconds or as a date.

    >>> retry_after("30", datetime(2024, 1, 1, tzinfo=UTC)).total_seconds()
    30.0
    >>> retry_after("Mon, 01 Jan 2024 00:01:00 GMT", datetime(2024, 1, 1, tzinfo=UTC)).seconds
    60
    """
    try:
        if value is None or value.isdecimal():
            return timedelta(seconds=int(value or 0))
        return max(parsedate_to_datetime(value) - now, timedelta())
    except (ValueError, TypeError, OverflowError):
        return timedelta()
