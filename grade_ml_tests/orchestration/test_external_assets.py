"""The group external in Dagster, against the simulated campus's providers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pytest
import sqlalchemy as sa
from dagster import (
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
    MarkdownMetadataValue,
    build_schedule_context,
)
from sqlalchemy import Engine

from grade_ml.campus.providers.server import ProviderServer, serve
from grade_ml.campus.simulated import CampusConfig
from grade_ml.core.errors import NotFoundError
from grade_ml.core.settings import Settings
from grade_ml.external.settings import PREFIX, ExternalSettings
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.ranges import PARTITION, range_tags
from grade_ml.orchestration.running import QUIET, run_job
from grade_ml_tests.orchestration.conftest import TODAY

IN_MEMORY = True

FETCHED = {
    "weather": "open-meteo",
    "economic_indicators": "world-bank",
    "academic_calendar": "academic-calendar",
    "social_sentiment": "hn",
    "job_market": "bls",
    "campus_events": "campus-events",
    "industry_trends": "wikimedia",
}
SOURCES = {*FETCHED, "course_difficulty"}


@pytest.fixture(scope="module")
def running() -> Iterator[ProviderServer]:
    with serve(CampusConfig(students=150, courses=3, terms=4), TODAY) as server:
        yield server


@pytest.fixture
def providers(running: ProviderServer) -> Iterator[ProviderServer]:
    """The providers, well-behaved and without a request yet."""
    running.requests.clear()
    yield running
    running.behave()


@pytest.fixture
def external(providers: ProviderServer) -> ExternalSettings:
    return ExternalSettings(_env_file=None, providers_url=providers.url)


@pytest.fixture
def defs(campus: Settings, external: ExternalSettings) -> Definitions:
    return build_defs(campus, external)


def collect(
    defs: Definitions, instance: DagsterInstance, day: date = TODAY, *names: str
) -> ExecuteInProcessResult:
    job = defs.resolve_job_def("collect_external_data")
    return job.execute_in_process(
        run_config=QUIET,
        instance=instance,
        partition_key=str(day),
        asset_selection=[AssetKey(name) for name in names] or None,
    )


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({PARTITION: str(TODAY + timedelta(days=1))}, "The day 2024-11-02 has no partition."),
        ({PARTITION: "2009-12-31"}, "The day 2009-12-31 has no partition."),
        (range_tags("2024-10-31", "2024-11-02"), "The day 2024-11-02 has no partition."),
        (range_tags("2024-10-31", "2024-10-30"), "ends before it begins."),
        ({}, "The run names no partition."),
    ],
)
def test_a_run_for_days_that_do_not_exist_fails_and_queries_no_provider(
    defs: Definitions,
    instance: DagsterInstance,
    providers: ProviderServer,
    tags: dict[str, str],
    reason: str,
):
    job = defs.resolve_job_def("collect_external_data")
    with pytest.raises(NotFoundError, match=re.escape(reason)):
        job.execute_in_process(run_config=QUIET, instance=instance, tags=tags)
    assert not providers.requests


def checks(result: ExecuteInProcessResult) -> dict[str, tuple[bool, str]]:
    return {
        event.asset_check_evaluation_data.asset_key.to_user_string(): (
            event.asset_check_evaluation_data.passed,
            event.asset_check_evaluation_data.severity.value,
        )
        for event in result.all_events
        if event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION
    }


def metadata(result: ExecuteInProcessResult, name: str) -> dict:
    for event in result.all_events:
        if event.event_type is DagsterEventType.ASSET_MATERIALIZATION:
            materialization = event.step_materialization_data.materialization
            if materialization.asset_key == AssetKey(name) and materialization.metadata:
                last = materialization
    return dict(last.metadata)


def features(engine: Engine) -> pd.DataFrame:
    query = "select * from external.feature order by day, place, feature"
    with engine.connect() as connection:
        return pd.read_sql(sa.text(query), connection)


@pytest.mark.slow
def test_the_current_day(defs, instance, engine, providers):
    result = collect(defs, instance)
    for name in (*SOURCES, "external_features"):
        assert instance.get_materialized_partitions(AssetKey(name)) == {str(TODAY)}
    assert checks(result) == dict.fromkeys(SOURCES, (True, "WARN"))
    for name in SOURCES:
        entries = metadata(result, name)
        assert entries["degraded"].value == []
        assert entries["simulated"].value is True
        picture = entries["last 90 days"]
        assert isinstance(picture, MarkdownMetadataValue) and picture.value
        assert len(entries["newest values"].records) >= 2
    rows = features(engine)
    assert set(rows["source"]) == SOURCES
    assert set(rows["status"]) == {"observed", "carried forward"}
    table = metadata(result, "external_features")["coverage 90 days"].records
    coverage = {row.data["source"]: row.data for row in table}
    assert set(coverage) == SOURCES
    weather = {name: number for name, number in coverage["weather"].items() if name != "source"}
    assert weather == {
        **{"available": 3, "features": 3},
        **{"days complete": 1, "days partial": 0, "days": 1},
    }

    requests_before = len(providers.requests)
    collect(defs, instance)
    assert len(providers.requests) == requests_before
    pd.testing.assert_frame_equal(features(engine), rows)


@pytest.mark.parametrize("name", ["weather", pytest.param("campus_events", marks=pytest.mark.slow)])
def test_a_dead_source_is_degraded_and_harms_no_other(defs, instance, engine, providers, name):
    providers.misbehave(FETCHED[name], "html_page")
    result = collect(defs, instance)
    evaluations = checks(result)
    assert evaluations.pop(name) == (False, "WARN")
    assert set(evaluations.values()) == {(True, "WARN")}
    (problem,) = metadata(result, name)["degraded"].value
    assert "text/html" in problem
    status = features(engine).groupby("source")["status"].agg(set)
    assert status[name] == {"not available"}


def test_a_source_dead_for_long_is_an_error_and_shows_its_last_good_value(
    campus, external, instance, providers
):
    def on(day: date) -> ExecuteInProcessResult:
        defs = build_defs(campus.model_copy(update={"as_of": day}), external)
        return collect(defs, instance, day, "weather")

    assert checks(on(date(2024, 10, 27)))["weather"] == (True, "WARN")
    providers.misbehave("open-meteo", "html_page")
    for day, severity, hours in ((date(2024, 10, 30), "WARN", 72), (TODAY, "ERROR", 120)):
        result = on(day)
        assert checks(result)["weather"] == (False, severity)
        newest = {
            row.data["value of"]: row.data
            for row in metadata(result, "weather")["newest values"].records
        }["temperature"]
        assert newest["status"] == "carried forward"
        assert newest["age (days)"] == hours / 24 and newest["unit"] == "°C"
        assert newest["value"] is not None
    providers.behave()
    assert checks(on(TODAY))["weather"] == (True, "WARN")


def test_only_chosen_sources_are_queried(defs, instance, providers):
    result = collect(defs, instance, TODAY, "weather", "economic_indicators")
    assert {request.provider for request in providers.requests} == {"open-meteo", "world-bank"}
    assert checks(result) == dict.fromkeys(("weather", "economic_indicators"), (True, "WARN"))


def test_the_schedule_requests_the_current_day(settings, external, instance):
    auckland = settings.model_copy(update={"timezone": "Pacific/Auckland"})
    definitions = build_defs(auckland, external)
    by_name = {schedule.name: schedule for schedule in definitions.schedules}
    context = build_schedule_context(
        instance,
        datetime(2024, 10, 31, 17, tzinfo=UTC),
        repository_def=definitions.get_repository_def(),
    )
    (request,) = by_name["external_data"].evaluate_tick(context).run_requests
    assert request.partition_key == "2024-11-01"


def test_the_command_collects_the_current_day(campus, instance, providers, monkeypatch):
    monkeypatch.setenv(f"{PREFIX}PROVIDERS_URL", providers.url)
    report = run_job(campus, instance, "collect_external_data")
    assert report.success, report.failures
    assert report.warnings == []
    assert {asset.asset for asset in report.assets} == {*SOURCES, "external_features"}
    with pytest.raises(NotFoundError, match="has no courses"):
        run_job(campus, instance, "collect_external_data", ["SIM-MATH101"])


@pytest.mark.slow
def test_without_any_network_everything_still_runs_and_reports_what_is_missing(
    campus, instance, engine
):
    nowhere = ExternalSettings(_env_file=None, providers_url="http://127.0.0.1:9")
    result = collect(build_defs(campus, nowhere), instance)
    evaluations = checks(result)
    assert evaluations.pop("course_difficulty") == (True, "WARN")
    assert evaluations == dict.fromkeys(FETCHED, (False, "WARN"))
    for name in FETCHED:
        (problem,) = metadata(result, name)["degraded"].value
        assert "cannot be reached" in problem
    rows = features(engine).set_index("feature")
    assert (rows[rows["status"] == "not available"]["reason"] == "nothing was known by then").all()
    # Public holidays need no network.
    assert set(rows[rows["source"].isin(FETCHED) & rows["value"].notna()].index) == {
        "academic_calendar_days_to_holiday"
    }
