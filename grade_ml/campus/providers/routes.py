"""Maps paths to the providers that answer them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from grade_ml.campus.providers import calendars, economy, oneroster, pageviews, posts, weather
from grade_ml.campus.providers.answers import Answer, Query
from grade_ml.campus.providers.world import World


class Provider(StrEnum):
    """A provider, by the name under which it can be made to misbehave."""

    OPEN_METEO = "open-meteo"
    WORLD_BANK = "world-bank"
    FRED = "fred"
    ACADEMIC_CALENDAR = "academic-calendar"
    CAMPUS_EVENTS = "campus-events"
    HACKER_NEWS = "hn"
    GDELT = "gdelt"
    BLS = "bls"
    WIKIMEDIA = "wikimedia"
    ONEROSTER = "oneroster"
    ONEROSTER_TOKEN = "oneroster-token"


@dataclass(frozen=True)
class Route:
    """A path and the function that answers it.

    Parameters
    ----------
    prefix
        The path; `answer` gets the rest of a requested path as `Query.parts`.
    field
        The field that every reader of this format needs.
    """

    provider: Provider
    prefix: str
    answer: Callable[[World, Query], Answer]
    field: str
    method: str = "GET"


ROUTES = (
    Route(Provider.OPEN_METEO, "/open-meteo/v1/archive", weather.archive, "daily"),
    Route(Provider.OPEN_METEO, "/open-meteo/v1/forecast", weather.forecast, "daily"),
    Route(Provider.WORLD_BANK, "/world-bank", economy.world_bank, "value"),
    Route(Provider.FRED, "/fred", economy.fred, "observation_date"),
    Route(Provider.ACADEMIC_CALENDAR, "/calendar/academic.ics", calendars.academic, "DTSTART"),
    Route(Provider.CAMPUS_EVENTS, "/calendar/events.ics", calendars.events, "DTSTART"),
    Route(Provider.HACKER_NEWS, "/hn/api/v1/search_by_date", posts.search_by_date, "title"),
    Route(Provider.GDELT, "/gdelt/api/v2/doc/doc", posts.tone, "value"),
    Route(Provider.BLS, "/bls/publicAPI/v2/timeseries/data", economy.bls, "value", "POST"),
    Route(
        Provider.WIKIMEDIA,
        "/wikimedia/api/rest_v1/metrics/pageviews/per-article",
        pageviews.per_article,
        "views",
    ),
    Route(
        Provider.ONEROSTER_TOKEN,
        f"{oneroster.ROOT}/token",
        oneroster.token,
        "access_token",
        "POST",
    ),
    *(
        Route(Provider.ONEROSTER, f"{oneroster.ROOT}/ims/oneroster/{path}", answer, "sourcedId")
        for path, answer in (
            ("v1p1", oneroster.v1p1),
            ("rostering/v1p2", oneroster.v1p2),
            ("gradebook/v1p2", oneroster.v1p2),
        )
    ),
)


def route(path: str) -> Route | None:
    """Return the route of `path`, or None if there is none."""
    for candidate in ROUTES:
        if f"{path}/".startswith(f"{candidate.prefix}/"):
            return candidate
    return None
