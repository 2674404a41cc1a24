"""What every source keeps, with any behaviour of its provider."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.campus.providers.misbehaviour import Mode
from grade_ml.campus.providers.server import ProviderServer
from grade_ml.external import features
from grade_ml.external.catalog import facts, sources
from grade_ml.external.client import ATTEMPTS, Client
from grade_ml.external.collect import collect
from grade_ml.external.protocol import Window
from grade_ml.external.settings import ExternalSettings
from grade_ml.external.source import Source
from grade_ml.external.store import Collection, last_good
from grade_ml_tests.external.conftest import NOON, TODAY, FakeClock

PROVIDERS = {
    "weather": "open-meteo",
    "economic_indicators": "world-bank",
    "academic_calendar": "academic-calendar",
    "social_sentiment": "hn",
    "job_market": "bls",
    "campus_events": "campus-events",
    "industry_trends": "wikimedia",
}
DAILY = ("weather", "academic_calendar", "social_sentiment", "campus_events", "industry_trends")
#: The field that `Mode.CHANGED_FIELD` renames, as a message has to name it.
FIELDS = {
    "weather": "daily",
    "economic_indicators": "value",
    "academic_calendar": "DTSTART",
    "social_sentiment": "title",
    "job_market": "value",
    "campus_events": "DTSTART",
    "industry_trends": "views",
}
#: Series that have values where their provider has none: a post without a title is a post, and
#: public holidays need no feed.
INDEPENDENT = ("posts", "days_to_holiday")
#: Two years of these are read in seconds, those of the others in half a second.
LONG = ("campus_events", "social_sentiment")
MONTH = Window(TODAY - timedelta(days=30), TODAY)
THREE = [Mode.SERVER_ERROR, Mode.TIMEOUT, Mode.OFF]


@dataclass
class Collector:
    """Collects one source and looks at what is stored."""

    name: str
    source: Source
    settings: ExternalSettings
    engine: Engine
    providers: ProviderServer
    client: Callable[..., Client]

    def collect(self, window: Window = MONTH, now: datetime = NOON, **options: float) -> Collection:
        client = self.client(now, **options)
        return collect(self.engine, client, [self.source], window, self.settings.place)[self.name]

    def misbehave(self, mode: Mode, times: int | None = None) -> None:
        self.providers.misbehave(PROVIDERS[self.name], mode, times)

    def rows(self) -> pd.DataFrame:
        return self._read("select * from external.observation order by 1, 2, 3, 4, 5")

    def responses(self) -> pd.DataFrame:
        return self._read("select * from external.response")

    def describe(self, window: Window, now: datetime) -> pd.DataFrame:
        about, place = [self.source.about], self.settings.place
        with self.engine.begin() as connection:
            return features.known(connection, about, window, place, now)

    def last_good(self) -> datetime | None:
        with self.engine.begin() as connection:
            return last_good(connection, self.name)

    def _read(self, query: str) -> pd.DataFrame:
        with self.engine.connect() as connection:
            return pd.read_sql(sa.text(query), connection)


@pytest.fixture(params=PROVIDERS)
def collector(request, engine, providers, external, client) -> Collector:
    by_name = {source.about.name: source for source in sources(external, None)}
    source = by_name[request.param]
    return Collector(request.param, source, external, engine, providers, client)


def test_there_are_eight_sources_with_their_terms(external):
    facts_of_sources = facts(external)
    assert {about.name for about in facts_of_sources} == {*PROVIDERS, "course_difficulty"}
    assert all(about.terms and about.title and about.series for about in facts_of_sources)


def test_a_collection_is_complete_and_the_next_requests_nothing(collector: Collector):
    first = collector.collect()
    assert first.problem is None
    assert first.requests == len(collector.providers.requests) > 0
    rows = collector.rows()
    assert first.rows_new == len(rows)
    assert set(rows["series"]) == {series.name for series in collector.source.about.series}
    if collector.name in DAILY:
        about = rows[rows["observed_on"].between(MONTH.first, TODAY - timedelta(days=2))]
        assert (about.groupby("series").size() == 29).all()
    soon = NOON + timedelta(minutes=50)
    again = collector.collect(now=soon)
    assert (again.problem, again.requests, again.rows_new) == (None, 0, 0)
    assert collector.last_good() == soon


def test_what_is_still_current_is_not_sent_again(collector: Collector):
    # So late that the next day requests the same days, so early that they may still change.
    last = TODAY - timedelta(days=6 if collector.name == "weather" else 2)
    window = Window(last - timedelta(days=3), last)
    first = collector.collect(window)
    later = collector.collect(window, NOON + timedelta(hours=25))
    assert later.requests == first.requests > 0
    assert (later.problem, later.rows_new) == (None, 0)
    kept = collector.responses()
    is_sent_again = collector.name == "job_market"  # an answer to a POST has no validator
    assert ((kept["fetched_at"] > NOON) == is_sent_again).all()
    assert (kept["validated_at"] > NOON).all()


@pytest.mark.parametrize(
    "collector", ["weather", "social_sentiment", "industry_trends"], indirect=True
)
def test_what_can_no_longer_change_is_never_requested_again(collector: Collector):
    window = Window(date(2024, 5, 1), date(2024, 6, 30))
    assert collector.collect(window).requests > 0
    assert collector.collect(window, NOON + timedelta(days=300)).requests == 0


def test_no_value_is_no_zero(collector: Collector):
    collector.misbehave(Mode.NULLS)
    assert collector.collect().problem is None
    rows = collector.rows()
    assert rows[~rows["series"].isin(INDEPENDENT)]["value"].isna().all()
    described = collector.describe(Window(TODAY, TODAY), NOON)
    of_provider = described[~described["feature"].str.endswith(INDEPENDENT)]
    assert set(of_provider["status"]) == {"not available"}
    assert of_provider["value"].isna().all()
    assert (of_provider["reason"] != "").all()


@pytest.mark.parametrize(
    "collector",
    [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in PROVIDERS],
    indirect=True,
)
def test_a_past_day_stays_as_it_was_when_the_world_moves_on(collector: Collector):
    collector.collect()
    before = collector.describe(MONTH, NOON)
    # Two years: long enough for every figure to be revised.
    for days in (3, 40, 250, 730):
        now = NOON + timedelta(days=days)
        collector.providers.today = now.date()
        done = collector.collect(Window(MONTH.first, now.date()), now)
        assert done.problem is None
    pd.testing.assert_frame_equal(collector.describe(MONTH, NOON), before)
    if collector.name in ("weather", "economic_indicators", "job_market"):
        rows = collector.rows()
        revised = rows[rows.duplicated(["series", "place", "observed_on"])]
        assert len(revised)
        assert (revised["available_at"] >= revised["fetched_at"]).all()


@pytest.mark.slow
def test_the_days_of_clock_changes_and_the_leap_day(collector: Collector):
    for first, last in (
        (date(2024, 2, 28), date(2024, 3, 1)),
        (date(2024, 3, 30), date(2024, 4, 1)),
        (date(2024, 10, 26), date(2024, 10, 28)),
    ):
        window = Window(first, last)
        assert collector.collect(window).problem is None
        if collector.name in DAILY:
            rows = collector.rows()
            observations = rows[rows["observed_on"].between(first, last)]
            per_series = observations.groupby("series")["observed_on"].agg(list)
            assert all(days == list(window.days()) for days in per_series)


def test_too_many_requests_waits_as_long_as_the_answer_requires(
    collector: Collector, clock: FakeClock
):
    collector.providers.retry_after = 30
    collector.misbehave(Mode.TOO_MANY_REQUESTS, times=1)
    assert collector.collect().problem is None
    # And not much longer, though from then on at the pace of the source's limit.
    assert 29.9 < clock.slept < 45


def test_a_long_wait_is_left_to_a_later_collection(collector: Collector, clock: FakeClock):
    collector.providers.retry_after = 3600
    collector.misbehave(Mode.TOO_MANY_REQUESTS, times=1)
    done = collector.collect()
    assert done.problem and "2024-11-01 13:00" in done.problem
    # Another process keeps to it, too.
    assert collector.collect().requests == 0
    clock.sleep(3600)
    assert collector.collect().problem is None


@pytest.mark.parametrize("mode", THREE)
def test_what_passes_is_tried_again(collector: Collector, mode: Mode):
    collector.misbehave(mode, times=1)
    done = collector.collect(silence_s=0.5)
    assert done.problem is None
    assert done.rows_new > 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", THREE)
def test_what_does_not_pass_is_given_up(collector: Collector, mode: Mode):
    collector.misbehave(mode)
    done = collector.collect(silence_s=0.2)
    assert done.problem and done.problem.startswith(collector.source.about.title)
    assert done.requests == ATTEMPTS
    assert collector.last_good() is None


@pytest.mark.parametrize(
    "mode", [Mode.WRONG_CONTENT_TYPE, Mode.HTML_PAGE, Mode.TRUNCATED, Mode.CHANGED_FIELD]
)
def test_what_is_no_answer_is_refused_at_once_and_kept(collector: Collector, mode: Mode):
    collector.misbehave(mode)
    done = collector.collect()
    assert done.problem and done.problem.startswith(collector.source.about.title)
    if mode is Mode.CHANGED_FIELD:
        assert FIELDS[collector.name] in done.problem
    assert done.requests == 1
    (kept,) = collector.responses().itertuples()
    assert not kept.accepted and kept.problem and len(kept.body)
    assert kept.key in done.problem
    assert set(collector.rows()["series"]) <= {"days_to_holiday"}
    collector.providers.behave()
    assert collector.collect().problem is None


def test_a_body_without_end_is_cut_off(collector: Collector):
    collector.misbehave(Mode.HUGE)
    done = collector.collect(max_bytes=2 << 20)
    assert done.problem and "more than 2 MB" in done.problem
    assert done.requests == 1


@pytest.mark.parametrize(
    ("collector", "setting"),
    [
        ("weather", "weather_archive_url"),
        ("job_market", "jobs_url"),
        ("campus_events", "events_url"),
    ],
    indirect=["collector"],
)
def test_a_refusal_is_not_tried_again(collector: Collector, setting: str):
    wrong = collector.settings.model_copy(update={setting: f"{collector.providers.url}/nowhere"})
    collector.source = type(collector.source)(wrong)
    done = collector.collect()
    assert done.problem and "status 404" in done.problem
    assert done.requests == 1
