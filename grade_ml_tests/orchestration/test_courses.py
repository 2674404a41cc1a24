"""One course that fails: the others continue, the reason is given, and the run is no success."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
    MaterializeResult,
    ResourceDefinition,
    define_asset_job,
    in_process_executor,
)
from dagster._core.storage.partition_status_cache import AssetPartitionStatus
from hypothesis import given
from hypothesis import strategies as st

from grade_ml.core.clock import Clock
from grade_ml.core.errors import NotReadyError, ServiceError
from grade_ml.core.settings import Settings
from grade_ml.core.settling import settle
from grade_ml.orchestration.courses import Courses, all_courses, course_asset
from grade_ml.orchestration.partitions import course
from grade_ml.orchestration.ranges import PARTITION, range_tags
from grade_ml.orchestration.resources import Platform

IN_MEMORY = True

SECRET = "student-4711"
NAMES = [f"c{number:02d}" for number in range(20)]


@given(st.sets(st.integers(0, 39), max_size=38))
def test_every_key_but_the_failing_ones_is_worked_on_once(odd: set[int]):
    done: list[str] = []

    def work(keys: Sequence[str]) -> Sequence[str]:
        for key in keys:
            if int(key) in odd:
                raise KeyError(f"{key}" if int(key) % 2 else key, key)
        done.extend(keys)
        return keys

    keys = [str(number) for number in range(40)]
    try:
        parts, failed = settle(keys, work)
    except KeyError:
        # Where the first that are alone all fail alike, the cause is taken for one of all.
        assert len(odd) >= 5 and not done
        return
    assert sorted(done) == sorted(key for part in parts for key in part)
    assert {*done, *failed} == set(keys) and {*map(int, failed)} == odd


def test_what_no_course_is_the_cause_of_is_not_tried_course_by_course():
    calls = 0

    def work(keys: Sequence[str]) -> None:
        nonlocal calls
        calls += 1
        raise ServiceError("The database does not answer.")

    with pytest.raises(ServiceError):
        settle(NAMES, work)
    assert calls == 1

    def alike(keys: Sequence[str]) -> None:
        nonlocal calls
        calls += 1
        raise NotReadyError("There is no champion.")

    with pytest.raises(NotReadyError):
        settle(NAMES * 10, alike)
    assert calls < 30


def test_courses_that_fail_only_together_are_done_apart():
    def work(keys: Sequence[str]) -> Sequence[str]:
        if len(keys) > 3:
            raise MemoryError
        return keys

    parts, failed = settle(NAMES, work)
    assert not failed and sorted(key for part in parts for key in part) == NAMES


Run = Callable[..., ExecuteInProcessResult]


@pytest.fixture
def run(instance: DagsterInstance, settings: Settings, add_courses: Callable[..., None]) -> Run:
    """Run two assets, the first of which fails for some courses."""

    def carry_out(
        odd: Sequence[str], names: Sequence[str] = NAMES, tags: Mapping[str, str] | None = None
    ) -> ExecuteInProcessResult:
        add_courses(*names)

        @course_asset(check_specs=[AssetCheckSpec("complete", asset="first")])
        def first(courses: Courses, platform: Platform) -> MaterializeResult:
            """Do the first."""
            for key in courses.keys:
                if key in odd:
                    raise KeyError(SECRET)
                courses.add_asset_metadata({"of": key}, partition_key=key)
            answer = AssetCheckResult(
                check_name="complete",
                passed="c02" not in courses.keys,
                severity=AssetCheckSeverity.WARN,
            )
            return MaterializeResult(metadata={"as_of": "today"}, check_results=[answer])

        @course_asset(deps=["first"])
        def second(courses: Courses, platform: Platform) -> MaterializeResult:
            """Do the second."""
            return MaterializeResult()

        job = define_asset_job("both", executor_def=in_process_executor)
        instance.add_dynamic_partitions(str(course.name), list(names))
        definitions = Definitions(
            assets=[first, second],
            asset_checks=[all_courses(first), all_courses(second)],
            jobs=[job],
            resources={
                "platform": ResourceDefinition.hardcoded_resource(Platform(settings, Clock()))
            },
        )
        return definitions.resolve_job_def("both").execute_in_process(
            instance=instance,
            raise_on_error=False,
            tags=range_tags(names[0], names[-1]) if tags is None else tags,
        )

    return carry_out


def materialized(instance: DagsterInstance, name: str) -> set[str]:
    return set(instance.get_materialized_partitions(AssetKey(name)))


def steps(result: ExecuteInProcessResult, kind: DagsterEventType) -> set[str]:
    return {str(event.step_key) for event in result.all_events if event.event_type is kind}


def test_a_failing_course_is_not_materialized_and_the_others_go_on(
    run: Run, instance: DagsterInstance
):
    result = run(["c07", "c13"])
    assert not result.success
    good = set(NAMES) - {"c07", "c13"}
    assert materialized(instance, "first") == good
    statuses = instance.get_status_by_partition(AssetKey("first"), NAMES, course)
    assert statuses == {
        name: AssetPartitionStatus.MATERIALIZED if name in good else AssetPartitionStatus.FAILED
        for name in NAMES
    }
    # Later assets read what is stored, of any day.
    assert materialized(instance, "second") == set(NAMES)
    assert steps(result, DagsterEventType.STEP_FAILURE) == {"first_all_courses"}
    assert steps(result, DagsterEventType.STEP_SKIPPED) == set()
    events = instance.get_records_for_run(
        result.run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION
    ).records
    for record in events:
        materialization = record.asset_materialization
        if materialization and materialization.asset_key == AssetKey("first"):
            assert materialization.metadata["of"].value == materialization.partition
            assert materialization.metadata["as of"].value == "today"
    failed = [
        record.asset_observation
        for record in instance.get_records_for_run(
            result.run_id, of_type=DagsterEventType.ASSET_OBSERVATION
        ).records
    ]
    assert {event.partition for event in failed if event} == {"c07", "c13"}
    assert all(
        "KeyError in first" in str(event.metadata["failed"].value) for event in failed if event
    )
    checks = {
        (evaluation.asset_key.to_user_string(), evaluation.check_name): evaluation.passed
        for event in result.all_events
        if event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION
        for evaluation in [event.asset_check_evaluation_data]
    }
    assert checks == {
        ("first", "complete"): False,
        ("first", "all_courses"): False,
        ("second", "all_courses"): True,
    }
    log = "\n".join(entry.user_message for entry in instance.all_logs(result.run_id))
    assert "c07 failed" in log and SECRET not in log


def test_a_run_in_which_no_course_fails_is_as_any(run: Run, instance: DagsterInstance):
    result = run([])
    assert result.success
    assert materialized(instance, "first") == materialized(instance, "second") == set(NAMES)
    assert steps(result, DagsterEventType.ASSET_OBSERVATION) == set()


@pytest.mark.parametrize("names", [NAMES[:1], NAMES[:3], NAMES])
def test_where_every_course_fails_the_step_fails(
    run: Run, instance: DagsterInstance, names: list[str]
):
    result = run(names, names)
    assert not result.success
    assert materialized(instance, "first") == materialized(instance, "second") == set()
    assert "first" in steps(result, DagsterEventType.STEP_FAILURE)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({PARTITION: "c99"}, "There is no course c99. Known courses: c00"),
        (range_tags("c05", "c04"), "The range from c05 to c04 ends before it begins."),
        ({}, "The run names no partition."),
    ],
)
def test_a_run_for_courses_that_do_not_exist_fails_and_gives_the_reason(
    run: Run, instance: DagsterInstance, tags: dict[str, str], reason: str
):
    result = run([], tags=tags)
    assert not result.success and reason in log_of(instance, result)
    assert materialized(instance, "first") == materialized(instance, "second") == set()


def test_a_course_that_was_typed_into_the_launch_dialog_fails_beside_the_others(
    run: Run, instance: DagsterInstance
):
    instance.add_dynamic_partitions(str(course.name), ["typed"])
    result = run([], tags=range_tags("typed", "c19"))
    assert not result.success
    assert "There is no course typed." in log_of(instance, result)
    assert materialized(instance, "first") == materialized(instance, "second") == set(NAMES)


def log_of(instance: DagsterInstance, result: ExecuteInProcessResult) -> str:
    return str([entry.to_json() for entry in instance.all_logs(result.run_id)])
