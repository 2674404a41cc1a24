"""The job market per month, from the US Bureau of Labor Statistics.

A month's figures appear some weeks after it and are revised in the two months that follow.
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

#: Job openings, the slowest of the defaults, appear five weeks after the month.
PUBLISHED = timedelta(days=37)
#: Years in one request without a registration key.
YEARS = 10


class _Figure(BaseModel):
    year: int
    period: str
    value: str | None

    def month_end(self) -> date | None:
        """Return the last day of the month; None for annual and half-year means."""
        month = int(self.period[1:]) if self.period[:1] == "M" else 13
        if month > 12:
            return None
        following = date(self.year + month // 12, month % 12 + 1, 1)
        return following - timedelta(days=1)

    def number(self) -> float | None:
        """Return the value; None where BLS writes a dash or nothing."""
        return None if self.value in (None, "", "-") else float(self.value.replace(",", ""))


class _OneSeries(BaseModel):
    seriesID: str
    data: list[_Figure]


class _Results(BaseModel):
    series: list[_OneSeries]


class _Payload(BaseModel):
    status: str
    message: list[str]
    Results: _Results | None = None


_PAYLOAD = TypeAdapter(_Payload)


@dataclass(frozen=True)
class JobMarket:
    """The monthly series of the settings."""

    settings: ExternalSettings

    @cached_property
    def about(self) -> About:
        """The facts; the series are those of the settings."""
        return About(
            name="job_market",
            title="US Bureau of Labor Statistics",
            terms="Public domain; 25 requests a day without a registration key.",
            series=tuple(
                Series(name, "as BLS states it", keep=150, low=0)
                for name in self.settings.job_series
            ),
            lookback=150,
            ttl=timedelta(hours=6),
            settles=timedelta(days=400),
            limit=RateLimit(every=timedelta(hours=2), burst=12),
            freshness=timedelta(days=7),
        )

    def fetch(
        self, client: Client, window: Window, place: Place, now: datetime
    ) -> Iterator[Observation]:
        """Yield the figures of every month that ends in the window, ten years in one request."""
        names = {identifier: name for name, identifier in self.settings.job_series.items()}
        secrets = {"registrationkey": self.settings.jobs_key} if self.settings.jobs_key else {}
        for first in range(window.first.year, window.last.year + 1, YEARS):
            last = min(first + YEARS - 1, window.last.year)
            request = Request(
                self.settings.url("jobs_url"),
                body={"seriesid": list(names), "startyear": str(first), "endyear": str(last)},
                secrets=secrets,
                closes=place.end_of(date(last, 12, 31)) + self.about.settles,
            )
            all_series = client.get(self.about, request, self._read)
            for series in all_series:
                for figure in series.data:
                    day = figure.month_end()
                    if day and window.first <= day <= window.last:
                        published = place.end_of(day) + PUBLISHED
                        yield Observation(names[series.seriesID], day, published, figure.number())

    def _read(self, body: bytes) -> list[_OneSeries]:
        payload = _PAYLOAD.validate_json(body)
        if payload.status != "REQUEST_SUCCEEDED" or payload.Results is None:
            raise PayloadError("status", " ".join(payload.message) or payload.status)
        for message in payload.message:
            if "does not exist" in message:
                raise PayloadError("seriesID", message)
        for series in payload.Results.series:
            if series.seriesID not in self.settings.job_series.values():
                raise PayloadError("seriesID", f"{series.seriesID} was not requested")
            for figure in series.data:
                try:
                    figure.number()
                    figure.month_end()
                except ValueError as error:
                    raise PayloadError("value", str(error)) from error
        return payload.Results.series
