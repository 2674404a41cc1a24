"""The country's economy per year, from the World Bank.

Figures of a year appear about the middle of the next year and are revised for years.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from pydantic import BaseModel, TypeAdapter

from grade_ml.external.protocol import (
    About,
    Observation,
    PayloadError,
    Place,
    RateLimit,
    Request,
    Series,
    Window,
)
from grade_ml.external.settings import ExternalSettings

if TYPE_CHECKING:
    from grade_ml.external.client import Client

#: The World Bank renews its indicators by 1 July with the figures of the year before.
PUBLISHED = timedelta(days=182)
PAGE = 1000


class _Header(BaseModel):
    page: int
    pages: int


class _Figure(BaseModel):
    date: str
    value: float | None


_PAYLOAD = TypeAdapter(tuple[_Header, list[_Figure] | None])
_REFUSAL = TypeAdapter(list[dict[str, list[dict[str, str]]]])


@dataclass(frozen=True)
class EconomicIndicators:
    """The indicators of the settings, one series each."""

    settings: ExternalSettings

    @cached_property
    def about(self) -> About:
        """The facts; the series are those of the settings."""
        return About(
            name="economic_indicators",
            title="World Bank",
            terms="CC BY 4.0.",
            series=tuple(
                Series(name, "%", keep=3 * 366, low=-100, high=1000)
                for name in self.settings.indicators
            ),
            lookback=2 * 366,
            ttl=timedelta(hours=24),
            settles=timedelta(days=5 * 366),
            limit=RateLimit(every=timedelta(seconds=1), burst=20),
            freshness=timedelta(days=7),
        )

    def fetch(
        self, client: Client, window: Window, place: Place, now: datetime
    ) -> Iterator[Observation]:
        """Yield the figures of every year that ends in the window."""
        years = f"{window.first.year}:{window.last.year}"
        for name, indicator in self.settings.indicators.items():
            url = (
                f"{self.settings.url('economy_url')}/country/{place.country}/indicator/{indicator}"
            )
            page, pages = 0, 1
            while page < pages:
                page += 1
                request = Request(
                    url,
                    params={"format": "json", "date": years, "per_page": PAGE, "page": page},
                    closes=place.end_of(window.last) + self.about.settles,
                )
                header, figures = client.get(self.about, request, self._read)
                pages = header.pages
                for figure in figures:
                    day = date(int(figure.date), 12, 31)
                    yield Observation(name, day, place.end_of(day) + PUBLISHED, figure.value)

    @staticmethod
    def _read(body: bytes) -> tuple[_Header, list[_Figure]]:
        if b'"message"' in body[:200]:
            # A refusal comes under status 200.
            message = _REFUSAL.validate_json(body)[0]["message"][0]
            raise PayloadError("message", message.get("value", "it refuses the request"))
        header, figures = _PAYLOAD.validate_json(body)
        for figure in figures or []:
            if not figure.date.isdecimal():
                raise PayloadError("date", f"{figure.date} is not a year")
        return header, figures or []
