"""Weather per day, from Open-Meteo: the archive, and the forecast for the days it lacks yet.

The archive (ERA5) comes five days late, so a past day's weather is available only then, as it would
have been. The forecast for today is available at once and corrected by the archive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
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

ARCHIVE_LAG = timedelta(days=5)
#: The provider's own name of each series.
VARIABLES = {
    "temperature": "temperature_2m_mean",
    "precipitation": "precipitation_sum",
    "sunshine": "sunshine_duration",
}


class _Daily(BaseModel):
    time: list[date]
    temperature_2m_mean: list[float | None]
    precipitation_sum: list[float | None]
    sunshine_duration: list[float | None]

    def column(self, variable: str) -> list[float | None]:
        return list(getattr(self, variable))


class _Payload(BaseModel):
    daily_units: dict[str, str]
    daily: _Daily


_PAYLOAD = TypeAdapter(_Payload)


@dataclass(frozen=True)
class Weather:
    """Mean temperature, precipitation and sunshine per day."""

    settings: ExternalSettings
    about = About(
        name="weather",
        title="Open-Meteo",
        terms="CC BY 4.0, free for non-commercial use below 10,000 calls a day.",
        series=(
            Series("temperature", "°C", keep=14, low=-90, high=60),
            Series("precipitation", "mm", keep=14, low=0, high=2000),
            Series("sunshine", "s", keep=14, low=0, high=86_400),
        ),
        lookback=10,
        ttl=timedelta(hours=24),
        settles=timedelta(days=10),
        limit=RateLimit(every=timedelta(seconds=10), burst=60),
        freshness=timedelta(days=3),
    )

    def fetch(
        self, client: Client, window: Window, place: Place, now: datetime
    ) -> Iterator[Observation]:
        """Yield the archive's days, then those that only the forecast has."""
        today = now.astimezone(place.zone).date()
        archived = today - ARCHIVE_LAG
        if window.first <= archived:
            past = Window(window.first, min(window.last, archived))
            url = self.settings.url("weather_archive_url")
            for name, day, value in self._days(client, url, past, place, self.about.ttl):
                yield Observation(name, day, place.end_of(day) + ARCHIVE_LAG, value)
        if archived < window.last:
            recent = Window(max(window.first, archived + timedelta(days=1)), window.last)
            url = self.settings.url("weather_forecast_url")
            for name, day, value in self._days(client, url, recent, place, timedelta(hours=1)):
                yield Observation(name, day, now, value)

    def _days(
        self, client: Client, url: str, window: Window, place: Place, ttl: timedelta
    ) -> Iterator[tuple[str, date, float | None]]:
        request = Request(
            url,
            params={
                "latitude": place.latitude,
                "longitude": place.longitude,
                "start_date": window.first.isoformat(),
                "end_date": window.last.isoformat(),
                "daily": ",".join(VARIABLES.values()),
                "timezone": place.timezone,
            },
            ttl=ttl,
            closes=place.end_of(window.last) + self.about.settles,
        )
        payload = client.get(self.about, request, self._read)
        for series, variable in VARIABLES.items():
            for day, value in zip(payload.time, payload.column(variable), strict=True):
                yield series, day, value

    def _read(self, body: bytes) -> _Daily:
        payload = _PAYLOAD.validate_json(body)
        for series in self.about.series:
            variable = VARIABLES[series.name]
            unit = payload.daily_units.get(variable)
            if unit != series.unit:
                raise PayloadError(f"daily_units.{variable}", f"it is {unit}, not {series.unit}")
            if len(payload.daily.column(variable)) != len(payload.daily.time):
                raise PayloadError(f"daily.{variable}", "it has another length than daily.time")
        return payload.daily
