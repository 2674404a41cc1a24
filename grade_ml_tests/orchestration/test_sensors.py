from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from dagster import (
    AssetMaterialization,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    Definitions,
    SensorResult,
    SkipReason,
    build_sensor_context,
)
from dagster._core.storage.tags import MAX_RETRIES_TAG
from dagster._core.test_utils import create_run_for_test
from sqlalchemy import Engine

from grade_ml.core.clock import Clock
from grade_ml.core.settings import Settings
from grade_ml.gradebook import schema
from grade_ml.orchestration import never_started
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.catalog import synchronize
from grade_ml.orchestration.partitions import course
from grade_ml.orchestration.ranges import RANGE_END, RANGE_START, range_tags
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.sequences import decided
from grade_ml_tests.orchestration.conftest import Stopped, schedule_context

IN_MEMORY = True


@contextmanager
def _context(definitions: Definitions, instance: DagsterInstance, cursor: str | None = None):
    with build_sensor_context(
        instance=instance,
        cursor=cursor,
        definitions=definitions,
        resources={"platform": definitions.resources["platform"]},
    ) as context:
        yield context


@pytest.fixture
def tick(
    definitions: Definitions, instance: DagsterInstance
) -> Iterator[Callable[..., SensorResult | SkipReason]]:
    """Evaluate a sensor as the daemon would, applying its requests for partitions."""

    def evaluate(name: str, cursor: str | None = None) -> SensorResult | SkipReason:
        with _context(definitions, instance, cursor) as context:
            result = definitions.resolve_sensor_def(name)(context)
        for request in getattr(result, "dynamic_partitions_requests", None) or ():
            if hasattr(request, "partition_keys") and "Add" in type(request).__name__:
                instance.add_dynamic_partitions("course", list(request.partition_keys))
            else:
                for key in request.partition_keys:
                    instance.delete_dynamic_partition("course", key)
        return result

    yield evaluate


def _known(instance: DagsterInstance) -> list[str]:
    return list(instance.get_dynamic_partitions(str(course.name)))


def _drop_course(engine: Engine, name: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.delete(schema.course).where(schema.course.c.course_id == name))


def test_the_partitions_follow_the_gradebook(add_courses, engine, instance, tick):
    add_courses("A", "B", "C")
    assert isinstance(tick("course_catalog"), SensorResult)
    assert _known(instance) == ["A", "B", "C"]
    assert isinstance(tick("course_catalog"), SkipReason)
    _drop_course(engine, "B")
    tick("course_catalog")
    assert _known(instance) == ["A", "C"]


@pytest.mark.parametrize(
    "tags", [{"dagster/partition": "B"}, range_tags("A", "C")], ids=["one", "range"]
)
def test_a_partition_with_a_run_in_flight_stays(add_courses, engine, instance, tick, tags):
    add_courses("A", "B", "C")
    tick("course_catalog")
    run = create_run_for_test(instance, tags=tags, status=DagsterRunStatus.STARTED)
    _drop_course(engine, "B")
    result = tick("course_catalog")
    assert isinstance(result, SkipReason)
    assert "until their runs end: 1." in str(result.skip_message)
    assert _known(instance) == ["A", "B", "C"]
    instance.report_run_canceled(run)
    tick("course_catalog")
    assert _known(instance) == ["A", "C"]


def test_a_run_for_what_does_not_exist_ends_and_its_partition_goes(add_courses, instance, tick):
    def record(job: str, first: str, last: str) -> str:
        tags = range_tags(first, last)
        return create_run_for_test(instance, job_name=job, tags=tags).run_id

    add_courses("A", "B")
    tick("course_catalog")
    instance.add_dynamic_partitions(str(course.name), ["NOPE"])
    why = {
        record("monitor_model_performance", "A", "NADA"): "no course NADA. Known courses: A, B.",
        record("collect_external_data", "2024-01-01", "soon"): "There is no day 'soon'.",
    }
    sound = record("monitor_model_performance", "A", "B")
    tick("job_results")
    for run_id, reason in why.items():
        (entry,) = instance.all_logs(run_id, of_type=DagsterEventType.RUN_FAILURE)
        assert reason in entry.message
        assert instance.get_run_by_id(run_id).tags[MAX_RETRIES_TAG] == "0"
    assert instance.get_run_by_id(sound).status is DagsterRunStatus.NOT_STARTED
    tick("course_catalog")
    assert _known(instance) == ["A", "B"]


def test_a_run_that_was_never_submitted_ends_after_an_hour(add_courses, instance, settings):
    add_courses("A")
    run = create_run_for_test(instance, job_name="data_cleanup")
    repository = build_defs(settings).get_repository_def()
    for minutes, ended in ((59, 0), (61, 1)):
        platform = Platform(settings, Stopped(datetime.now(UTC) + timedelta(minutes=minutes)))
        assert never_started.end(instance, repository, platform) == ended
    assert instance.get_run_by_id(run.run_id).status is DagsterRunStatus.FAILURE


def test_a_failed_read_changes_nothing_and_gives_the_reason(
    add_courses, engine, instance, tick, settings: Settings
):
    add_courses("A", "B")
    tick("course_catalog")
    assert settings.database_url
    gone = sa.make_url(str(settings.database_url)).set(database="gone")
    elsewhere = gone.render_as_string(hide_password=False)
    unreachable = settings.model_copy(update={"database_url": elsewhere})
    broken = build_defs(unreachable)
    for name in ("course_catalog", "gradebook_changes"):
        with _context(broken, instance) as context:
            result = broken.resolve_sensor_def(name)(context)
        assert isinstance(result, SkipReason)
        assert "could not be read" in str(result.skip_message)
    assert _known(instance) == ["A", "B"]


def test_a_table_that_is_missing_is_a_failed_read(add_courses, engine, instance, tick):
    add_courses("A")
    tick("course_catalog")
    with engine.begin() as connection:
        connection.execute(sa.text("alter table gradebook.course rename to mislaid"))
    assert isinstance(tick("course_catalog"), SkipReason)
    assert _known(instance) == ["A"]


def test_the_first_load_requests_one_run_that_fills_everything(add_courses, instance, tick):
    assert isinstance(tick("gradebook_changes"), SkipReason)
    add_courses("A", "B", "C")
    waiting = tick("gradebook_changes")
    assert isinstance(waiting, SkipReason)
    assert "3 courses" in str(waiting.skip_message)
    tick("course_catalog")

    first, again = tick("gradebook_changes"), tick("gradebook_changes")
    assert isinstance(first, SensorResult) and isinstance(again, SensorResult)
    (request,) = first.run_requests or ()
    assert request.job_name == "first_day" and RANGE_START not in request.tags
    assert [same.run_key for same in again.run_requests or ()] == [request.run_key]

    assert isinstance(tick("gradebook_changes", first.cursor), SkipReason)
    add_courses("D")
    tick("course_catalog")
    run = create_run_for_test(instance, job_name="first_day", status=DagsterRunStatus.STARTED)
    waiting = tick("gradebook_changes", first.cursor)
    assert isinstance(waiting, SkipReason) and "waits" in str(waiting.skip_message)
    instance.report_run_canceled(run)
    second = tick("gradebook_changes", first.cursor)
    assert isinstance(second, SensorResult)
    assert [r.run_key for r in second.run_requests or ()] != [request.run_key]


def test_a_burst_of_loads_is_answered_by_one_run_over_what_changed(add_courses, instance, tick):
    add_courses("A", "B", "C", "D")
    tick("course_catalog")
    first = tick("gradebook_changes")
    instance.report_runless_asset_event(AssetMaterialization("baseline_model"))
    for changed in ("B", "C", "B"):
        add_courses(changed=[changed])
    run = create_run_for_test(
        instance, job_name="refresh_gradebook", status=DagsterRunStatus.NOT_STARTED
    )
    waiting = tick("gradebook_changes", first.cursor)
    assert isinstance(waiting, SkipReason) and "waits" in str(waiting.skip_message)

    instance.report_run_canceled(run)
    answer = tick("gradebook_changes", first.cursor)
    (request,) = answer.run_requests or ()
    assert request.job_name == "refresh_gradebook"
    assert (request.tags[RANGE_START], request.tags[RANGE_END]) == ("B", "C")
    assert isinstance(tick("gradebook_changes", answer.cursor), SkipReason)


def test_a_load_that_the_training_has_seen_starts_no_run(
    add_courses, instance, tick, definitions, settings
):
    """The first day begins with a sync, which may bring courses."""
    add_courses("A")
    tick("course_catalog")
    first = tick("gradebook_changes")
    add_courses("B", changed=["A"])
    instance.report_runless_asset_event(AssetMaterialization("baseline_model"))
    job = "train_traditional_models"
    _, seen = decided(instance, Platform(settings, Clock()), job)
    create_run_for_test(instance, job_name=job, status=DagsterRunStatus.SUCCESS, tags=seen)
    tick("course_catalog")
    done = tick("gradebook_changes", first.cursor)
    assert not done.run_requests and "was trained" in str(done.skip_reason.skip_message)
    assert isinstance(tick("gradebook_changes", done.cursor), SkipReason)
    add_courses(changed=["A"])
    assert tick("gradebook_changes", done.cursor).run_requests


def test_a_load_that_changed_no_course_requests_nothing(add_courses, instance, tick):
    add_courses("A")
    tick("course_catalog")
    first = tick("gradebook_changes")
    instance.report_runless_asset_event(AssetMaterialization("baseline_model"))
    add_courses()
    answer = tick("gradebook_changes", first.cursor)
    assert not answer.run_requests and answer.cursor != first.cursor


def test_the_schedule_requests_all_courses_in_one_run(add_courses, definitions, instance):
    schedule = definitions.resolve_schedule_def("traditional_training")
    platform = definitions.resources["platform"]
    with schedule_context(instance, platform) as context:
        empty = schedule.evaluate_tick(context)
    assert empty.run_requests == [] and "grade-ml load" in str(empty.skip_message)
    add_courses("B", "A", "C")
    synchronize(instance, ["A", "B", "C"])
    with schedule_context(instance, platform) as context:
        (request,) = schedule.evaluate_tick(context).run_requests
    assert (request.tags[RANGE_START], request.tags[RANGE_END]) == ("A", "C")
