"""Jobs whose steps run jobs: in which order, and what a failing step costs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from sqlalchemy import Engine

from grade_ml.core.settings import Settings
from grade_ml.maintenance.results import PART_OF
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.running import QUIET
from grade_ml.orchestration.timetable import WEEKLY

NEED_COURSES = {
    "monitor_model_performance",
    "update_model_explanations",
    "generate_time_series_forecasts",
}


@pytest.fixture
def broken(engine: Engine) -> Iterator[None]:
    """Health cannot be written down, for an unforeseen reason, in words about a student."""
    make = (
        "create function public.broken() returns trigger language plpgsql as "
        "$$ begin raise exception 'student 4711'; end $$",
        "create trigger broken before insert on maintenance.system_health "
        "for each row execute function public.broken()",
    )
    with engine.begin() as connection:
        for statement in make:
            connection.execute(sa.text(statement))
    yield
    with engine.begin() as connection:
        connection.execute(sa.text("drop function public.broken() cascade"))


@pytest.mark.slow
@pytest.mark.usefixtures("broken")
def test_a_failed_part_is_named_at_the_end_and_the_rest_continues(
    settings: Settings, engine: Engine, instance: DagsterInstance
) -> None:
    """In an empty gradebook some parts have nothing to work on."""
    job = build_defs(settings).resolve_job_def(WEEKLY.name)
    result = job.execute_in_process(run_config=QUIET, instance=instance, raise_on_error=False)
    steps = [event.step_key for event in result.all_node_events if event.is_step_start]
    assert steps == [WEEKLY.step(name) for name in WEEKLY.parts]
    failed = {event.step_key: event.step_failure_data for event in result.get_step_failure_events()}
    unforeseen = str(failed.pop(WEEKLY.step("system_health")))
    assert "RaiseException" in unforeseen and "4711" not in unforeseen
    assert failed.keys() == {WEEKLY.step(name) for name in NEED_COURSES}
    assert all("grade-ml load" in str(failure.error) for failure in failed.values())
    message = result.get_run_failure_event().message
    assert all(step in message for step in failed)

    parts = instance.get_runs(RunsFilter(tags={PART_OF: result.run_id}))
    assert {part.job_name for part in parts} == set(WEEKLY.parts) - NEED_COURSES
    ended_well = {part.job_name for part in parts if part.status is DagsterRunStatus.SUCCESS}
    assert ended_well == set(WEEKLY.parts) - NEED_COURSES - {"system_health"}
    (metadata,) = [
        event.event_specific_data.metadata
        for event in result.events_for_node(WEEKLY.step("manage_ab_tests"))
        if event.is_successful_output
    ]
    (run,) = [part.run_id for part in parts if part.job_name == "manage_ab_tests"]
    assert metadata["runs"].value == [run] and metadata["status"].value == "success"
    assert metadata["seconds"].value > 0

    again = job.execute_in_process(
        run_config=QUIET, instance=instance, op_selection=[WEEKLY.step("manage_ab_tests")]
    )
    (metadata,) = [
        event.event_specific_data.metadata
        for event in again.all_events
        if event.is_successful_output
    ]
    assert metadata["status"].value == "skipped"
    assert "is new since the last run" in metadata["reason"].value
    assert not instance.get_runs(RunsFilter(tags={PART_OF: again.run_id}))
