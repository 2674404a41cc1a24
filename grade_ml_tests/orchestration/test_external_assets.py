"""The group external in Dagster, against the simulated campus's providers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime

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
from grade_ml.orchestration.running import QUIET, run_job
from grade_ml_tests.orchestration.conftest import TODAY
from grade_ml_tests.orchestration.test_plots import png

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
    """The providers, well-behaved and not asked yet."""
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
                found = materialization
    return dict(found.metadata)


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
        found = metadata(result, name)
        assert found["degraded"].value == []
        assert found["simulated"].value is True
        picture = found["last_90_days"]
        assert isinstance(picture, MarkdownMetadataValue) and png(picture)
        assert len(found["newest_values"].records) >= 2
    rows = features(engine)
    assert set(rows["source"]) == SOURCES
    assert set(rows["status"]) == {"observed", "carried forward"}
    coverage = metadata(result, "external_features")["coverage"].records
    assert coverage[0].data["day"] == str(TODAY)
    assert coverage[0].data["weather"] == "3 of 3"

    asked = len(providers.requests)
    collect(defs, instance)
    assert len(providers.requests) == asked
    pd.testing.assert_frame_equal(features(engine), rows)


@pytest.mark.parametrize("name", ["weather", pytest.param("campus_events", marks=pytest.mark.slow)])
def test_a_dead_source_is_degraded_and_harms_no_other(defs, instance, engine, providers, name):
    providers.misbehave(FETCHED[name], "html_page")
    result = collect(defs, instance)
    found = checks(result)
    assert found.pop(name) == (False, "WARN")
    assert set(found.values()) == {(True, "WARN")}
    (problem,) = metadata(result, name)["degraded"].value
    assert "text/html" in problem
    status = features(engine).groupby("source")["status"].agg(set)
    assert status[name] == {"not available"}


def test_a_source_dead_for_long_is_an_error_and_tells_its_last_good_value(
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
            row.data["feature"]: row.data
            for row in metadata(result, "weather")["newest_values"].records
        }["weather_temperature"]
        assert newest["status"] == "carried forward"
        assert newest["age_hours"] == hours
        assert newest["value"] is not None
    providers.behave()
    assert checks(on(TODAY))["weather"] == (True, "WARN")


def test_chosen_sources_are_asked_alone(defs, instance, providers):
    result = collect(defs, instance, TODAY, "weather", "economic_indicators")
    assert {request.provider for request in providers.requests} == {"open-meteo", "world-bank"}
    assert checks(result) == dict.fromkeys(("weather", "economic_indicators"), (True, "WARN"))


def test_the_schedule_asks_for_the_current_day(settings, external, instance):
    auckland = settings.model_copy(update={"timezone": "Pacific/Auckland"})
    definitions = build_defs(auckland, external)
    by_name = {one.name: one for one in definitions.schedules}
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
    with pytest.raises(NotFoundError, match="knows no courses"):
        run_job(campus, instance, "collect_external_data", ["SIM-MATH101"])


@pytest.mark.slow
def test_without_any_network_everything_still_runs_and_says_what_is_missing(
    campus, instance, engine
):
    nowhere = ExternalSettings(_env_file=None, providers_url="http://127.0.0.1:9")
    result = collect(build_defs(campus, nowhere), instance)
    found = checks(result)
    assert found.pop("course_difficulty") == (True, "WARN")
    assert found == dict.fromkeys(FETCHED, (False, "WARN"))
    for name in FETCHED:
        (problem,) = metadata(result, name)["degraded"].value
        assert "cannot be reached" in problem
    rows = features(engine).set_index("feature")
    assert (rows[rows["status"] == "not available"]["reason"] == "nothing was known by then").all()
    # Public holidays need no network.
    assert set(rows[rows["source"].isin(FETCHED) & rows["value"].notna()].index) == {
        "academic_calendar_days_to_holiday"
    }
