"""The vocabulary of external sources: their facts, requests, observations and errors.

Light on purpose: the definitions of assets read the facts of every source at import.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from grade_ml.core.errors import GradeMLError
from grade_ml.core.hashing import digest

#: What the place of an observation about a course begins with.
COURSE_PLACE = "course/"


class ProviderError(GradeMLError):
    """A provider did not deliver what was requested.

    Parameters
    ----------
    provider
        The source's title.
    problem
        What happened, as the end of a sentence that begins with the provider.
    field
        The field of the payload that is wrong; empty if no single field is.
    status
        The status of the answer, where that is the problem.
    """

    def __init__(
        self, provider: str, problem: str, remedy: str, *, field: str = "", status: int = 0
    ) -> None:
        super().__init__(f"{provider}: {problem}.", remedy)
        self.provider = provider
        self.field = field
        self.status = status


class PayloadError(ValueError):
    """A payload violates its format; `field` is the wrong field."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem


@dataclass(frozen=True)
class Place:
    """Where the campus is; `country` is an ISO 3166 alpha-3 code, `timezone` an IANA name."""

    latitude: float
    longitude: float
    country: str
    timezone: str

    @property
    def key(self) -> str:
        """The place as observations name it.

        >>> Place(51.5, -0.12, "GBR", "Europe/London").key
        '51.5000,-0.1200'
        """
        return f"{self.latitude:.4f},{self.longitude:.4f}"

    @property
    def zone(self) -> ZoneInfo:
        """The time zone."""
        return ZoneInfo(self.timezone)

    def end_of(self, day: date) -> datetime:
        """Return the first moment after `day`, on the clocks of the place.

        >>> Place(51.5, -0.12, "GBR", "Europe/London").end_of(date(2024, 7, 1)).isoformat()
        '2024-07-02T00:00:00+01:00'
        """
        return datetime.combine(day + timedelta(days=1), time(), self.zone)


@dataclass(frozen=True)
class Window:
    """Days from `first` to `last`, both included."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError(f"the window ends on {self.last}, before it starts on {self.first}")

    def days(self) -> Iterator[date]:
        """Yield every day."""
        for number in range((self.last - self.first).days + 1):
            yield self.first + timedelta(days=number)

    def from_earlier(self, days: int) -> Window:
        """Return the window that starts so many days earlier.

        >>> Window(date(2024, 3, 1), date(2024, 3, 2)).from_earlier(1).first
        datetime.date(2024, 2, 29)
        """
        return Window(self.first - timedelta(days=days), self.last)


@dataclass(frozen=True)
class Series:
    """One quantity of a source.

    Parameters
    ----------
    keep
        Days for which a value represents later days; after that the quantity is not available.
    low, high
        Bounds of a value; a value outside means that the provider changed its unit.
    """

    name: str
    unit: str
    keep: int
    low: float = float("-inf")
    high: float = float("inf")


@dataclass(frozen=True)
class RateLimit:
    """At most `burst` requests at once, then one request per `every`."""

    every: timedelta
    burst: int


@dataclass(frozen=True)
class About:
    """The facts of a source.

    Parameters
    ----------
    name, title
        Name of the asset and of the source in the store; the provider as people know it.
    terms
        Licence or terms of use, in a sentence.
    series
        What it observes.
    lookback
        Days before a window that are fetched with it: what is published or corrected late.
    ttl
        How long an answer counts as current.
    settles
        Time after the end of a day from which on its figures no longer change; an answer about
        such days is current for ever.
    limit
        The provider's limit, or less.
    freshness
        Age of the last good collection from which on its lack is an error.
    """

    name: str
    title: str
    terms: str
    series: tuple[Series, ...]
    lookback: int
    ttl: timedelta
    settles: timedelta
    limit: RateLimit
    freshness: timedelta


#: Media types of JSON.
JSON = frozenset({"application/json", "text/json"})


@dataclass(frozen=True)
class Request:
    """One request to a provider.

    Parameters
    ----------
    body, secrets
        What is posted as JSON; without a body it is a GET. Secrets are sent and not stored.
    types
        Media types that the answer may have.
    ttl
        How long an answer is current; by default the `ttl` of the source.
    closes
        From then on the answer no longer changes: an answer after it is current for ever.
    """

    url: str
    params: Mapping[str, str | int | float] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)
    types: frozenset[str] = JSON
    ttl: timedelta | None = None
    closes: datetime | None = None

    @property
    def key(self) -> str:
        """What distinguishes it from other requests, as SHA-256."""
        return digest([self.url, self.params, self.body], 64)


class Observation(NamedTuple):
    """A value of a series about a day.

    Parameters
    ----------
    observed_on
        The day that the value is about; the last day of a period.
    available_at
        When it could be known at the earliest.
    value
        `None` if the provider states that it has none.
    place
        What it is about, if that is not the campus.
    """

    series: str
    observed_on: date
    available_at: datetime
    value: float | None
    place: str | None = None
