"""Interest in fields of work per day: how often their Wikipedia articles are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote

from pydantic import BaseModel, TypeAdapter

from grade_ml.external.protocol import (
    About,
    Observation,
    PayloadError,
    Place,
    ProviderError,
    RateLimit,
    Request,
    Series,
    Window,
)
from grade_ml.external.settings import ExternalSettings

if TYPE_CHECKING:
    from grade_ml.external.client import Client

#: A day's views are counted within the next day.
PUBLISHED = timedelta(days=1)
NOT_FOUND = 404


class _Item(BaseModel):
    timestamp: str
    views: int | None


class _Payload(BaseModel):
    items: list[_Item]


_PAYLOAD = TypeAdapter(_Payload)


@dataclass(frozen=True)
class IndustryTrends:
    """Views per day of the articles of the settings, by people."""

    settings: ExternalSettings

    @cached_property
    def about(self) -> About:
        """The facts; the series are named after the articles of the settings."""
        return About(
            name="industry_trends",
            title="Wikimedia page views",
            terms="CC0; a contact in the User-Agent is asked for.",
            series=tuple(
                Series(article.lower(), "views", keep=14, low=0)
                for article in self.settings.articles
            ),
            lookback=10,
            ttl=timedelta(hours=24),
            settles=timedelta(days=10),
            limit=RateLimit(every=timedelta(milliseconds=200), burst=20),
            freshness=timedelta(days=3),
        )

    def fetch(
        self, client: Client, window: Window, place: Place, now: datetime
    ) -> Iterator[Observation]:
        """Yield the views of each day, one request for each article."""
        root = f"{self.settings.url('page_views_url')}/{self.settings.page_views_project}"
        span = f"{window.first:%Y%m%d}00/{window.last:%Y%m%d}00"
        for article in self.settings.articles:
            request = Request(
                f"{root}/all-access/user/{quote(article, safe='')}/daily/{span}",
                closes=place.end_of(window.last) + self.about.settles,
            )
            try:
                items = client.get(self.about, request, self._read)
            except ProviderError as error:
                if error.status != NOT_FOUND:
                    raise
                continue  # it is the provider's answer if no day of the window is counted yet
            for moment, views in items:
                day = moment.date()
                yield Observation(article.lower(), day, place.end_of(day) + PUBLISHED, views)

    @staticmethod
    def _read(body: bytes) -> list[tuple[datetime, int | None]]:
        items = _PAYLOAD.validate_json(body).items
        try:
            return [(datetime.strptime(item.timestamp, "%Y%m%d%H"), item.views) for item in items]
        except ValueError as error:
            raise PayloadError("items.timestamp", str(error)) from error
