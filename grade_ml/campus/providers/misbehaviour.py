"""The ways in which a provider can misbehave, and their effects on a body.

`server` applies those that concern connections.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import Any


class Mode(StrEnum):
    """A way to misbehave."""

    TOO_MANY_REQUESTS = "too_many_requests"
    """Status 429 with Retry-After."""
    SERVER_ERROR = "server_error"
    """Status 500."""
    TIMEOUT = "timeout"
    """Half of the body, then silence."""
    WRONG_CONTENT_TYPE = "wrong_content_type"
    """The right body, called HTML."""
    HTML_PAGE = "html_page"
    """A page that requests patience, under status 200."""
    TRUNCATED = "truncated"
    """The first half of the body as if it were the whole."""
    HUGE = "huge"
    """The right body, then 50 MB of blanks, of no declared length."""
    CHANGED_FIELD = "changed_field"
    """A field that every client reads has a new name."""
    OFF = "off"
    """The connection is reset without an answer."""
    NULLS = "nulls"
    """Values are missing: null, empty, or no events."""
    UNAUTHORIZED = "unauthorized"
    """Status 401, as if the token had just expired."""
    REPEATED_ROWS = "repeated_rows"
    """OneRoster: pages begin with rows of the page before."""
    VANISHING_ROWS = "vanishing_rows"
    """OneRoster: after the first page a row is gone, and all others move up."""
    WRONG_TOTAL = "wrong_total"
    """OneRoster: X-Total-Count is larger than the number of rows."""
    WITHOUT_TOTAL = "without_total"
    """OneRoster: there is no X-Total-Count, only links."""
    ENDLESS_PAGES = "endless_pages"
    """OneRoster: every page links to a next page, which is the same."""
    UNKNOWN_WORDS = "unknown_words"
    """OneRoster: the first row of a page has words that no version of the standard knows."""


#: The modes of providers with pages; other providers answer as usual.
OWN = (
    Mode.REPEATED_ROWS,
    Mode.VANISHING_ROWS,
    Mode.WRONG_TOTAL,
    Mode.WITHOUT_TOTAL,
    Mode.ENDLESS_PAGES,
    Mode.UNKNOWN_WORDS,
)
HUGE_BYTES = 50 << 20


def renamed(body: bytes, field: str) -> bytes:
    """Return `body` with every occurrence of the name `field` changed."""
    return re.sub(rf"\b{field}\b".encode(), f"{field}_v2".encode(), body)


def emptied(body: bytes, content_type: str, field: str) -> bytes:
    """Return `body` without the values of `field` in JSON, all values in CSV, all events in ICS."""
    if content_type.startswith("text/calendar"):
        return re.sub(rb"BEGIN:VEVENT.*END:VEVENT\r\n", b"", body, flags=re.DOTALL)
    if content_type.startswith("application/csv"):
        return re.sub(rb"(?m)^(\d{4}-\d\d-\d\d),.*$", rb"\1,.", body)
    return json.dumps(_without(json.loads(body), field)).encode()


def _without(value: Any, field: str) -> Any:
    if isinstance(value, list):
        return [_without(element, field) for element in value]
    if not isinstance(value, dict):
        return value
    if field in value:
        return {**value, field: _nulls(value[field])}
    return {name: _without(element, field) for name, element in value.items()}


def _nulls(value: Any) -> Any:
    """Return null, or an object of columns with nulls in all but the first."""
    if not isinstance(value, dict):
        return None
    index, *columns = value.items()
    return dict([index, *((name, [None] * len(column)) for name, column in columns)])
