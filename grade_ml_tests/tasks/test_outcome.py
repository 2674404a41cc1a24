"""What the runs of a task come to together."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import pytest

from grade_ml.maintenance.results import JobResult, LaunchedBy, Status
from grade_ml.orchestration.ranges import range_tags
from grade_ml.tasks import NotSubmitted, State, _Over, _spans
from grade_ml.tasks.outcome import result

TASK = "8c0d9a5e-6b57-4d0c-9d6f-0a2e8f1c7b11"
BEGAN = datetime(2026, 11, 30, 1, tzinfo=UTC)


def row(number: int, status: Status = Status.SUCCESS, **values: object) -> JobResult:
    """Return the result of a run that starts at the minute `number` and lasts two."""
    start = BEGAN + timedelta(minutes=number)
    given: dict[str, object] = {
        "started_at": start,
        "ended_at": start + timedelta(minutes=2),
        "courses": 1,
        "counts": {"rows": 10, "failed_courses": 0},
    }
    return JobResult(
        run_id=f"run-{number}",
        job="job",
        launched_by=LaunchedBy.TASK,
        status=status,
        **{**given, **values},  # type: ignore[arg-type]
    )


def test_one_run_is_the_task():
    task_result = result(TASK, [row(0, error=None, degraded=("no prophet",))])
    assert task_result
    assert (task_result.id, task_result.task, task_result.status) == (TASK, "job", State.SUCCESS)
    assert (task_result.courses, task_result.seconds, task_result.counts["rows"]) == (1, 120, 10)
    assert task_result.degraded == ("no prophet",) and task_result.run_ids == ("run-0",)
    plain = json.loads(json.dumps(task_result.to_dict()))
    assert plain["status"] == "SUCCESS" and plain["started_at"] == BEGAN.isoformat()


def test_several_runs_are_waited_for_and_the_worst_end_counts():
    good, bad = row(0), row(5, Status.FAILURE, error="It broke.", degraded=("a",))
    assert result(f"{TASK}/2", [good]) is None
    task_result = result(f"{TASK}/2", [good, bad])
    assert task_result
    assert (task_result.status, task_result.error) == (State.FAILURE, "It broke.")
    assert (task_result.courses, task_result.counts["rows"], task_result.seconds) == (2, 20, 7 * 60)
    canceled = row(6, Status.CANCELED, started_at=None)
    both = result(f"{TASK}/2", [good, canceled])
    assert both and both.status is State.REVOKED


def test_a_run_that_is_started_over_does_not_count():
    died = row(0, Status.FAILURE, retried=True, error="It was killed.")
    assert result(TASK, [died]) is None
    task_result = result(TASK, [died, row(5)])
    assert task_result
    assert (task_result.status, task_result.error, task_result.run_ids) == (
        State.SUCCESS,
        None,
        ("run-5",),
    )


def test_the_steps_of_a_run_that_are_runs_are_counted_and_do_not_decide():
    whole = row(0, courses=None, counts={}, ended_at=BEGAN + timedelta(hours=1))
    steps = [row(1, courses=3, degraded=("a",)), row(5, Status.FAILURE, courses=3, error="no")]
    task_result = result(TASK, [whole], steps)
    assert task_result
    assert (task_result.status, task_result.error, task_result.seconds) == (
        State.SUCCESS,
        None,
        3600,
    )
    assert (task_result.courses, task_result.counts["rows"], task_result.degraded) == (
        3,
        20,
        ("a",),
    )


def test_each_stretch_of_courses_is_a_run():
    keys, day = ["a", "b", "c", "d"], date(2026, 11, 30)
    assert _spans(_Over.COURSES, keys, [], day) == [range_tags("a", "d")]
    assert _spans(_Over.COURSES, keys, ["d", "a", "b"], day) == [
        range_tags("a", "b"),
        range_tags("d", "d"),
    ]
    assert _spans(_Over.DAY, [], [], day) == [{"dagster/partition": "2026-11-30"}]
    assert _spans(_Over.NOTHING, keys, [], day) == [{}]


@pytest.mark.parametrize("keys", [[], ["b"]])
def test_a_course_without_a_partition_is_not_submitted(keys: list[str]):
    with pytest.raises(NotSubmitted, match="partition of the course a "):
        _spans(_Over.COURSES, keys, ["a"], date(2026, 11, 30))
    with pytest.raises(NotSubmitted, match="no course yet"):
        _spans(_Over.COURSES, [], [], date(2026, 11, 30))
