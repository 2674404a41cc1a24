"""Addresses and queries of the sources: `GRADE_ML_EXTERNAL_…`; the defaults need no key."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from grade_ml.core.errors import ConfigurationError
from grade_ml.core.settings import EnvironmentSettings, TimezoneName
from grade_ml.external.protocol import Place

PREFIX = "GRADE_ML_EXTERNAL_"

#: Under `providers_url`, as `grade-ml providers` serves them.
_PATHS = {
    "weather_archive_url": "/open-meteo/v1/archive",
    "weather_forecast_url": "/open-meteo/v1/forecast",
    "economy_url": "/world-bank/v2",
    "calendar_url": "/calendar/academic.ics",
    "events_url": "/calendar/events.ics",
    "posts_url": "/hn/api/v1/search_by_date",
    "jobs_url": "/bls/publicAPI/v2/timeseries/data/",
    "page_views_url": "/wikimedia/api/rest_v1/metrics/pageviews/per-article",
}
#: Without a registration key BLS answers on its first version only.
_PUBLIC = {
    "weather_archive_url": "https://archive-api.open-meteo.com/v1/archive",
    "weather_forecast_url": "https://api.open-meteo.com/v1/forecast",
    "economy_url": "https://api.worldbank.org/v2",
    "posts_url": "https://hn.algolia.com/api/v1/search_by_date",
    "jobs_url": "https://api.bls.gov/publicAPI/v1/timeseries/data/",
    "page_views_url": "https://wikimedia.org/api/rest_v1/metrics/pageviews/per-article",
}


class ExternalSettings(EnvironmentSettings):
    """The place, the providers and the queries sent to them.

    Lists and mappings are given as JSON. The mappings lead from the name of a series to the
    provider's name of it.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    latitude: float = Field(default=51.5074, ge=-90, le=90)
    longitude: float = Field(default=-0.1278, ge=-180, le=180)
    country: str = Field(default="GBR", pattern="^[A-Z]{3}$")
    timezone: TimezoneName = "Europe/London"

    providers_url: str | None = None
    weather_archive_url: str = ""
    weather_forecast_url: str = ""
    economy_url: str = ""
    calendar_url: str = ""
    events_url: str = ""
    posts_url: str = ""
    jobs_url: str = ""
    page_views_url: str = ""

    indicators: dict[str, str] = Field(
        default={
            "unemployment": "SL.UEM.TOTL.ZS",
            "youth_unemployment": "SL.UEM.1524.ZS",
            "inflation": "FP.CPI.TOTL.ZG",
        }
    )
    subjects: tuple[str, ...] = ("university", "students", "exams")
    job_series: dict[str, str] = Field(
        default={
            "job_openings": "JTS000000000000000JOL",
            "young_unemployment": "LNS14000036",
        }
    )
    page_views_project: str = "en.wikipedia"
    articles: tuple[str, ...] = (
        "Artificial_intelligence",
        "Data_science",
        "Nursing",
        "Renewable_energy",
    )
    jobs_key: str | None = Field(default=None, repr=False)
    contact: str = "contact not set"

    @property
    def place(self) -> Place:
        """Where the campus is."""
        return Place(self.latitude, self.longitude, self.country, self.timezone)

    def url(self, name: str) -> str:
        """Return the URL of the setting `name`.

        It is the address that was set, else that under `providers_url`, else the public provider's.

        Raises
        ------
        ConfigurationError
            There is no public provider (calendars): set the university's own address.
        """
        if own := getattr(self, name):
            return str(own)
        if self.providers_url:
            return self.providers_url.rstrip("/") + _PATHS[name]
        if name in _PUBLIC:
            return _PUBLIC[name]
        raise ConfigurationError(
            "No iCalendar feed is set.",
            f"Set {PREFIX}{name.upper()} to the address of the university's feed.",
        )
