"""The mood of what people write about the subjects of the settings, from Hacker News search.

Titles are scored by VADER (Hutto and Gilbert 2014), -1 to 1. A day is described when it is over.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cache
from typing import TYPE_CHECKING

from pydantic import BaseModel, TypeAdapter

from grade_ml.external.protocol import (
    About,
    Observation,
    Place,
    RateLimit,
    Request,
    Series,
    Window,
)
from grade_ml.external.settings import ExternalSettings

if TYPE_CHECKING:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    from grade_ml.external.client import Client

#: The search returns no more hits of one query, on any page.
REACHABLE = 1000


class _Hit(BaseModel):
    objectID: str
    title: str | None
    created_at_i: int


class _Payload(BaseModel):
    hits: list[_Hit]
    nbHits: int


_PAYLOAD = TypeAdapter(_Payload)


@dataclass(frozen=True)
class SocialSentiment:
    """Number of posts per day, and mean and spread (standard deviation) of their mood."""

    settings: ExternalSettings
    about = About(
        name="social_sentiment",
        title="Hacker News search",
        terms="Algolia's public API of Hacker News, 10,000 requests an hour.",
        series=(
            Series("posts", "posts", keep=7, low=0),
            Series("mood", "VADER compound", keep=7, low=-1, high=1),
            Series("mood_spread", "VADER compound", keep=7, low=0, high=1.5),
        ),
        lookback=3,
        ttl=timedelta(hours=24),
        settles=timedelta(days=3),
        limit=RateLimit(every=timedelta(seconds=1), burst=50),
        freshness=timedelta(days=3),
    )

    def fetch(
        self, client: Client, window: Window, place: Place, now: datetime
    ) -> Iterator[Observation]:
        """Yield the figures of every day that is over; a post counts once for all subjects."""
        over = now.astimezone(place.zone).date() - timedelta(days=1)
        if over < window.first:
            return
        window = Window(window.first, min(window.last, over))
        posts: dict[str, _Hit] = {}
        for subject in self.settings.subjects:
            posts |= {hit.objectID: hit for hit in self._hits(client, subject, window, place)}
        moods: dict[date, list[float]] = defaultdict(list)
        counts = dict.fromkeys(window.days(), 0)
        for hit in posts.values():
            day = datetime.fromtimestamp(hit.created_at_i, place.zone).date()
            if day not in counts:
                continue
            counts[day] += 1
            if hit.title is not None:
                moods[day].append(_mood(hit.title))
        for day, count in counts.items():
            known = sorted(moods[day])
            ended = place.end_of(day)
            yield Observation("posts", day, ended, count)
            yield Observation("mood", day, ended, statistics.fmean(known) if known else None)
            yield Observation(
                "mood_spread", day, ended, statistics.stdev(known) if len(known) > 1 else None
            )

    def _hits(self, client: Client, subject: str, window: Window, place: Place) -> Iterator[_Hit]:
        """Yield all posts about a subject, newest first; the next request starts at the oldest."""
        start = datetime.combine(window.first, time(), place.zone).timestamp()
        end = place.end_of(window.last)
        before = int(end.timestamp())
        while True:
            request = Request(
                self.settings.url("posts_url"),
                params={
                    "query": subject,
                    "tags": "story",
                    "numericFilters": f"created_at_i>={int(start)},created_at_i<{before}",
                    "hitsPerPage": REACHABLE,
                },
                closes=end + self.about.settles,
            )
            payload = client.get(self.about, request, _PAYLOAD.validate_json)
            yield from payload.hits
            oldest = min((hit.created_at_i for hit in payload.hits), default=before)
            if len(payload.hits) >= payload.nbHits or oldest + 1 >= before:
                return
            # Several posts may share the oldest second, so it is requested again.
            before = oldest + 1


def _mood(title: str) -> float:
    return float(_analyzer().polarity_scores(title)["compound"])


@cache
def _analyzer() -> SentimentIntensityAnalyzer:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
