"""The eight sources: their facts, and each made ready from the settings."""

from __future__ import annotations

from grade_ml.external.academic_calendar import AcademicCalendar
from grade_ml.external.campus_events import CampusEvents
from grade_ml.external.course_difficulty import CourseDifficulty, Records
from grade_ml.external.economic_indicators import EconomicIndicators
from grade_ml.external.industry_trends import IndustryTrends
from grade_ml.external.job_market import JobMarket
from grade_ml.external.protocol import About
from grade_ml.external.settings import ExternalSettings
from grade_ml.external.social_sentiment import SocialSentiment
from grade_ml.external.source import Source
from grade_ml.external.weather import Weather

_FETCHED = (
    Weather,
    EconomicIndicators,
    AcademicCalendar,
    SocialSentiment,
    JobMarket,
    CampusEvents,
    IndustryTrends,
)


def sources(settings: ExternalSettings, records: Records | None) -> tuple[Source, ...]:
    """Return the sources, ready to fetch; without `records` that of the gradebook is left out."""
    fetched = tuple(source(settings) for source in _FETCHED)
    return fetched if records is None else (*fetched, CourseDifficulty(records))


def facts(settings: ExternalSettings) -> tuple[About, ...]:
    """Return the facts of all eight sources."""
    return (*(source.about for source in sources(settings, None)), CourseDifficulty.about)


#: The names of all eight sources; no setting changes them.
NAMES = tuple(about.name for about in facts(ExternalSettings.model_construct()))
