from __future__ import annotations

from collections.abc import Mapping

import pytest
import sqlalchemy as sa
from dagster import (
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
    MarkdownMetadataValue,
)
from sqlalchemy import Engine

from grade_ml.orchestration.assets.gradebook import SOURCES
from grade_ml.orchestration.running import QUIET
from grade_ml_tests.orchestration.test_plots import png

IN_MEMORY = True

NAMES = [source.name for source in SOURCES]


def profile(
    definitions: Definitions, instance: DagsterInstance, *names: str
) -> ExecuteInProcessResult:
    """Materialize tables of the gradebook, all unless some are named, with their checks."""
    job = definitions.resolve_job_def("refresh_gradebook")
    return job.execute_in_process(
        run_config=QUIET,
        instance=instance,
        asset_selection=[AssetKey(name) for name in names or NAMES],
        raise_on_error=False,
    )


def checks(result: ExecuteInProcessResult) -> Mapping[tuple[str, str], tuple[bool, str, int]]:
    evaluations = {}
    for event in result.all_events:
        if event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION:
            data = event.asset_check_evaluation_data
            rows = data.metadata.get("rows")
            key = (data.asset_key.to_user_string(), data.check_name)
            evaluations[key] = (data.passed, data.severity.value, rows.value if rows else None)
    return evaluations


@pytest.mark.usefixtures("one_of_each")
def test_every_table_is_profiled_and_checked(definitions, instance):
    result = profile(definitions, instance)
    assert result.success
    for name in NAMES:
        (event,) = result.asset_materializations_for_node(name)
        assert event.metadata["dagster/row_count"].value == 1
        assert event.metadata["quarantined rows"].value == 0
        for value in event.metadata.values():
            if isinstance(value, MarkdownMetadataValue) and value.value.startswith("!"):
                assert png(value)
    (results,) = result.asset_materializations_for_node("results")
    assert {"score distribution", "submissions"} <= set(results.metadata)
    assert results.metadata["graded on missing (%)"].value == 100
    evaluations = checks(result)
    assert all(passed for passed, _, _ in evaluations.values()), evaluations
    for name in NAMES:
        assert {(name, "keys"), (name, "quarantine")} <= set(evaluations)
    assert ("results", "freshness") in evaluations


@pytest.mark.usefixtures("one_of_each")
def test_an_odd_row_warns_and_a_broken_table_stops_the_run(
    engine: Engine, definitions: Definitions, instance: DagsterInstance
):
    with engine.begin() as connection:
        connection.execute(sa.text("update gradebook.result set graded_on = '2024-01-01'"))
    odd = profile(definitions, instance, "results")
    assert odd.success
    assert checks(odd)["results", "dates_in_order"] == (False, "WARN", 1)

    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "alter table gradebook.result drop constraint result_score; "
                "update gradebook.result set score = 250"
            )
        )
    broken = profile(definitions, instance, "results")
    assert not broken.success
    assert checks(broken)["results", "ranges"] == (False, "ERROR", 1)


def test_an_empty_gradebook_can_be_looked_at(engine, definitions, instance):
    result = profile(definitions, instance)
    assert result.success
    (event,) = result.asset_materializations_for_node("results")
    assert event.metadata["dagster/row_count"].value == 0


@pytest.mark.usefixtures("one_of_each")
def test_the_data_version_changes_only_with_a_load(
    add_courses, definitions: Definitions, instance: DagsterInstance
):
    def version() -> str:
        profile(definitions, instance, "courses")
        event = instance.get_latest_materialization_event(
            definitions.resolve_assets_def("courses").key
        )
        assert event and event.asset_materialization
        return event.asset_materialization.tags["dagster/data_version"]

    first = version()
    assert version() == first
    add_courses("another")
    assert version() != first
