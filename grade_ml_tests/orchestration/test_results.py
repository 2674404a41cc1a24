"""What is stored of a run: more than its status, no student's id, longer than its events."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from dagster import (
    AssetCheckResult,
    AssetCheckSpec,
    AssetsDefinition,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    Definitions,
    MaterializeResult,
    ResourceDefinition,
    asset,
    build_sensor_context,
    define_asset_job,
    in_process_executor,
    materialize,
    resource,
)
from dagster._core.storage.tags import WILL_RETRY_TAG
from dagster._core.test_utils import create_run_for_test
from sqlalchemy import Engine

from grade_ml.core import database
from grade_ml.core.clock import Clock
from grade_ml.core.errors import NotReadyError
from grade_ml.core.settings import Settings
from grade_ml.maintenance import results, usage
from grade_ml.maintenance.results import (
    LAUNCHED_BY_TAG,
    PART_OF,
    TASK_TAG,
    JobResult,
    LaunchedBy,
    Status,
)
from grade_ml.orchestration.courses import Courses, all_courses, course_asset
from grade_ml.orchestration.degradation import complete, is_complete
from grade_ml.orchestration.partitions import course
from grade_ml.orchestration.ranges import range_tags
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.results import launched_by, result_of
from grade_ml.orchestration.sensors.results import job_results

IN_MEMORY = True

SECRET = "student-4711"


class Later(Clock):
    """A minute later than it is."""

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(minutes=1)


@pytest.fixture
def platform(settings: Settings) -> Platform:
    return Platform(settings, Later())


@pytest.fixture
def tick(instance: DagsterInstance, platform: Platform) -> Callable[..., str]:
    """Evaluate the sensor; return its message and its cursor afterwards."""
    cursor: list[str | None] = [None]

    def evaluate() -> str:
        with build_sensor_context(
            instance=instance,
            cursor=cursor[0],
            definitions=Definitions(),
            resources={"platform": platform},
        ) as context:
            evaluated = job_results(context)
            cursor[0] = context.cursor
        return str(evaluated.skip_message)

    return evaluate


@pytest.fixture
def run(
    instance: DagsterInstance, platform: Platform, add_courses: Callable[..., None]
) -> Callable[..., str]:
    """Run an asset of courses and one of none, which fails as given; return the run's id."""
    add_courses("a", "b", "c")

    def carry_out(error: Exception | None = None, **tags: str) -> str:
        @course_asset(check_specs=[complete("first")])
        def first(courses: Courses, platform: Platform) -> MaterializeResult:
            """Do the first."""
            if "b" in courses.keys:
                raise KeyError(SECRET)
            for key in courses.keys:
                courses.add_asset_metadata({"dagster/row_count": 5}, partition_key=key)
            why = ["prophet is not installed"] * 2
            return MaterializeResult(check_results=[is_complete(why)])

        @asset(check_specs=[AssetCheckSpec("fine", asset="second", blocking=True)], deps=["first"])
        def second() -> MaterializeResult:
            if error:
                raise error
            checked = [AssetCheckResult(passed=False)]
            return MaterializeResult(metadata={"degraded": ["no server"]}, check_results=checked)

        instance.add_dynamic_partitions(str(course.name), ["a", "b", "c"])
        definitions = Definitions(
            assets=[first, second],
            asset_checks=[all_courses(first)],
            jobs=[define_asset_job("both", executor_def=in_process_executor)],
            resources={"platform": ResourceDefinition.hardcoded_resource(platform)},
        )
        return (
            definitions.resolve_job_def("both")
            .execute_in_process(
                instance=instance,
                raise_on_error=False,
                tags={**range_tags("a", "c"), **{f"grade_ml/{k}": v for k, v in tags.items()}},
            )
            .run_id
        )

    return carry_out


def kept(engine: Engine, run_id: str) -> JobResult:
    with engine.connect() as connection:
        result = results.of(connection, run_id)
    assert result
    return result


def test_a_result_outlives_its_run_and_names_no_student(run, tick, instance, engine):
    task = str(uuid.uuid4())
    foreseen = run(NotReadyError("There is no champion.", "Train one."), launched_by="command")
    defect = run(KeyError(SECRET), task=task, part_of=task)
    blocked = run()
    assert tick() == "Recorded the results of 3 runs."
    for name in (foreseen, defect, blocked):
        instance.delete_run(name)
    assert tick() == "Recorded the results of 0 runs."
    first, other = kept(engine, foreseen), kept(engine, defect)
    assert (first.job, first.status, first.courses) == ("both", Status.FAILURE, 3)
    assert (first.launched_by, other.launched_by) == (LaunchedBy.COMMAND, LaunchedBy.JOB)
    assert first.counts == {
        "assets": 1,
        "partitions": 2,
        "rows": 10,
        "failed_courses": 1,
        "failed_checks": 2,
    }
    assert first.degraded == ("prophet is not installed",)
    assert first.error and "second: " in first.error and "There is no champion." in first.error
    assert "first failed for b; the other courses are done." in first.error
    assert other.error and "KeyError in second, line" in other.error
    assert other.error.endswith(" of orchestration/test_results.py")
    assert SECRET not in repr([first, other])
    assert kept(engine, blocked).degraded == ("prophet is not installed", "no server")
    refused = kept(engine, blocked).error
    assert refused and "second: " in refused and "blocking" in refused and "fine" in refused
    assert first.started_at and first.seconds == (first.ended_at - first.started_at).total_seconds()
    # Each asset of courses measures its steps.
    assert first.peak_rss_mb and first.peak_rss_mb > 10 and first.cpu_seconds is not None
    with engine.connect() as connection:
        assert [result.run_id for result in results.newest(connection, limit=1)] == [blocked]
        assert results.newest(connection, "both")[1:] == [other, first]
        assert results.newest(connection, "another") == []
        assert results.parts(connection, [task]) == [other]
        assert results.of_task(connection, task) == results.of_task(connection, defect) == [other]


def test_runs_that_never_started_or_will_start_over_have_results(tick, instance, engine):
    canceled = create_run_for_test(instance, "nightly", status=DagsterRunStatus.NOT_STARTED)
    instance.report_run_canceled(canceled, "Nobody wants it.")
    died = create_run_for_test(
        instance, "nightly", status=DagsterRunStatus.STARTED, tags={WILL_RETRY_TAG: "true"}
    )
    instance.report_run_failed(died, "The process of this run was killed.")
    going = create_run_for_test(instance, "nightly", status=DagsterRunStatus.STARTED)
    assert tick() == "Recorded the results of 2 runs."
    first, other = kept(engine, canceled.run_id), kept(engine, died.run_id)
    assert (first.status, first.started_at, first.seconds) == (Status.CANCELED, None, None)
    assert first.error == "Nobody wants it."
    assert other.retried and other.error == "The process of this run was killed."
    assert other.peak_rss_mb is None
    with engine.connect() as connection:
        assert results.of(connection, going.run_id) is None


def test_no_run_is_missed_where_many_end_at_once(tick, instance, monkeypatch):
    monkeypatch.setattr("grade_ml.orchestration.sensors.results._AT_ONCE", 2)
    for _ in range(5):
        run = create_run_for_test(instance, "nightly", status=DagsterRunStatus.STARTED)
        instance.report_run_failed(run, "It failed.")
    assert [tick() for _ in range(4)] == [
        f"Recorded the results of {n} runs." for n in (2, 2, 1, 0)
    ]


def test_without_the_database_the_results_wait(tick, instance, platform, monkeypatch):
    run = create_run_for_test(instance, "nightly", status=DagsterRunStatus.STARTED)
    instance.report_run_failed(run, "It failed.")
    with monkeypatch.context() as patched:
        nowhere = database.connect("postgresql+psycopg://nobody@127.0.0.1:1/none")
        patched.setitem(platform.__dict__, "engine", nowhere)
        assert "could not be read" in tick()
    assert tick() == "Recorded the results of 1 runs."


def test_who_requested_a_run():
    assert launched_by({}) is LaunchedBy.UI
    assert launched_by({"dagster/sensor_name": "inbox"}) is LaunchedBy.SENSOR
    assert launched_by({LAUNCHED_BY_TAG: "task", TASK_TAG: "1"}) is LaunchedBy.TASK
    assert launched_by({LAUNCHED_BY_TAG: "command", PART_OF: "1"}) is LaunchedBy.JOB


def test_what_a_run_used_is_the_sum_of_its_steps(engine: Engine):
    at = datetime(2026, 11, 30, tzinfo=UTC)
    with engine.begin() as connection:
        for step, peak in (("a", 100.0), ("b", 300.0)):
            used = usage.Usage(1.0, peak, 2.0)
            usage.record(connection, "run", step, at, used)
        assert usage.of_runs(connection, ["run", "other"]) == {"run": usage.Usage(2.0, 300.0, 4.0)}


def test_the_last_red_line_of_a_run_names_what_failed_and_the_remedy(opened: DagsterInstance):
    empty = NotReadyError("The gradebook has no course.", "Load one with `grade-ml load`.")
    words = str(empty)

    def failing(name: str, error: Exception) -> AssetsDefinition:
        @asset(name=name)
        def thing() -> None:
            raise error from (KeyError("why") if error is empty else None)

        return thing

    @resource
    def broken() -> None:
        raise empty

    def end(*assets: AssetsDefinition, **resources: ResourceDefinition) -> tuple[str, str]:
        """Return the last line, and what is stored of the run."""
        run = materialize(assets, instance=opened, resources=resources, raise_on_error=False)
        (event,) = opened.all_logs(run.run_id, of_type=DagsterEventType.RUN_FAILURE)
        data = event.get_dagster_event().job_failure_data
        kept_results = results_of(opened, run.run_id)
        assert data.error and event.level == logging.ERROR
        return data.error.to_string().strip(), kept_results

    message, stored = end(
        failing("one", empty), failing("two", empty), failing("x", ValueError("odd"))
    )
    assert message == f"one, two: {words}\nx: ValueError: odd"
    assert stored == f"one, two: {words} x: ValueError in thing"
    needs = asset(name="needs", required_resource_keys={"broken"})(lambda: None)
    message, stored = end(needs, broken=broken)
    assert message == words == stored
    # A run that is ended from outside has no error, and the message states it.
    dead = create_run_for_test(opened, status=DagsterRunStatus.STARTED)
    opened.report_run_failed(dead, "The process of this run was killed.")
    (failure,) = opened.all_logs(dead.run_id, of_type=DagsterEventType.RUN_FAILURE)
    assert failure.message == "The process of this run was killed."


def results_of(instance: DagsterInstance, run_id: str) -> str:
    record = instance.get_run_record_by_id(run_id)
    assert record
    return str(result_of(instance, record, (), None).error).partition(", line")[0]
