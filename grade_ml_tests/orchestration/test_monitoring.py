"""The loop by real ticks: what is requested, when, and that nothing is requested twice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from dagster import (
    DagsterInstance,
    DagsterRunStatus,
    Definitions,
    RunRequest,
    SensorResult,
    SkipReason,
    build_sensor_context,
)
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.test_utils import create_run_for_test

from grade_ml.core.settings import Settings
from grade_ml.monitoring import store
from grade_ml.monitoring.store import Kind
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.catalog import synchronize
from grade_ml.orchestration.in_flight import IN_FLIGHT
from grade_ml.orchestration.ranges import RANGE_END, RANGE_START, range_tags
from grade_ml.orchestration.running import QUIET
from grade_ml.orchestration.sensors.retraining import REASON
from grade_ml.training import requests
from grade_ml_tests.monitoring import world as campuses
from grade_ml_tests.orchestration.conftest import schedule_context

IN_MEMORY = True
TODAY = date(2025, 10, 20)


@pytest.fixture
def today(settings: Settings) -> Settings:
    return settings.model_copy(update={"as_of": TODAY})


Tick = Callable[..., SensorResult | SkipReason]


@pytest.fixture
def tick(today: Settings, instance: DagsterInstance) -> Tick:
    def evaluate(name: str, as_of: date = TODAY) -> SensorResult | SkipReason:
        definitions: Definitions = build_defs(today.model_copy(update={"as_of": as_of}))
        with build_sensor_context(
            instance=instance,
            definitions=definitions,
            resources={"platform": definitions.resources["platform"]},
        ) as context:
            return definitions.resolve_sensor_def(name)(context)

    return evaluate


@pytest.fixture
def store_reports(engine) -> Callable[..., None]:
    """Store the reports of a day of some courses."""

    def write(day: date, kind: Kind, bodies: dict[str, dict[str, object]]) -> None:
        with engine.begin() as connection:
            store.write(connection, kind, day, bodies)

    return write


def alarm(on: date) -> dict[str, object]:
    return {"says": "scores are lower than predictions imply", "alarm_on": on}


def requests_of(result: SensorResult | SkipReason) -> list[RunRequest]:
    assert isinstance(result, SensorResult), result
    return list(result.run_requests or ())


def start(instance: DagsterInstance, request: RunRequest, status=DagsterRunStatus.STARTED):
    """Do what the daemon does with a request."""
    tags = {**request.tags, "dagster/run_key": str(request.run_key)}
    return create_run_for_test(
        instance, job_name="retrain_drifted_courses", tags=tags, status=status
    )


@pytest.fixture
def answered(engine) -> Callable[..., list[str]]:
    """Do what a training of some courses does with their requests."""

    def answer(*courses: str) -> list[str]:
        answers = [requests.Answer(name, "corrected", 2) for name in courses]
        with engine.begin() as connection:
            return requests.answer(connection, answers, "a run", datetime.now(UTC))

    return answer


def test_confirmed_drift_requests_just_those_courses_once(store_reports, tick, instance, answered):
    synchronize(instance, ["A", "B", "C", "D"])
    quiet = {"says": "", "alarm_on": None}
    assert isinstance(tick("drift_retraining"), SkipReason)
    bodies = {"A": quiet, "B": alarm(TODAY), "C": alarm(TODAY), "D": quiet, "gone": alarm(TODAY)}
    store_reports(TODAY, Kind.CONCEPT, bodies)

    first, again = (requests_of(tick("drift_retraining")) for _ in range(2))
    (request,) = first
    assert (request.tags[RANGE_START], request.tags[RANGE_END]) == ("B", "C")
    assert "scores are lower" in request.tags[REASON]
    # The daemon was restarted before it could act: it requests the same run, by its key.
    assert [repeated.run_key for repeated in again] == [request.run_key]

    run = start(instance, request)
    assert "in flight" in str(tick("drift_retraining").skip_message)
    instance.report_run_canceling(run)
    instance.report_run_canceled(run)
    # A training that came to nothing is requested again, but not on the same day.
    assert "requested today" in str(tick("drift_retraining").skip_message)
    tomorrow = TODAY + timedelta(days=1)
    (retry,) = requests_of(tick("drift_retraining", tomorrow))
    assert retry.run_key != request.run_key
    start(instance, retry, DagsterRunStatus.SUCCESS)
    assert answered("A", "B", "C") == ["B", "C"] and answered("B") == []
    assert "trained on request" in str(tick("drift_retraining", tomorrow).skip_message)
    # After the cooldown the same alarm is no news.
    later = tomorrow + timedelta(days=40)
    store_reports(later, Kind.CONCEPT, {"B": alarm(TODAY), "C": quiet})
    assert isinstance(tick("drift_retraining", later), SkipReason)


def test_of_a_run_only_courses_that_it_did_not_train_are_requested_again(
    store_reports, tick, instance, answered
):
    synchronize(instance, ["A", "B", "C"])
    store_reports(TODAY, Kind.CONCEPT, {name: alarm(TODAY) for name in "ABC"})
    (request,) = requests_of(tick("drift_retraining"))
    start(instance, request, DagsterRunStatus.FAILURE)
    answered("A", "C")
    (retry,) = requests_of(tick("drift_retraining", TODAY + timedelta(days=1)))
    assert (retry.tags[RANGE_START], retry.tags[RANGE_END]) == ("B", "B")


def test_pruned_runs_are_neither_forgotten_nor_repeated(store_reports, tick, instance, answered):
    """One course was trained, the training of the other came to nothing; then runs are deleted."""
    synchronize(instance, ["A", "B", "C"])
    store_reports(TODAY, Kind.CONCEPT, {"A": alarm(TODAY), "C": alarm(TODAY)})
    runs = [
        start(instance, request, DagsterRunStatus.SUCCESS)
        for request in requests_of(tick("drift_retraining"))
    ]
    answered("A")
    for run in runs:
        instance.delete_run(run.run_id)
    tomorrow = TODAY + timedelta(days=1)
    store_reports(tomorrow, Kind.CONCEPT, {"A": alarm(tomorrow), "C": alarm(tomorrow)})
    (again,) = requests_of(tick("drift_retraining", tomorrow))
    assert (again.tags[RANGE_START], again.tags[RANGE_END]) == ("C", "C")
    instance.delete_run(start(instance, again, DagsterRunStatus.SUCCESS).run_id)
    answered("C")
    for days in (1, 10, 27):
        day = TODAY + timedelta(days=days)
        store_reports(day, Kind.CONCEPT, {"A": alarm(day), "C": alarm(day)})
        assert "trained on request" in str(tick("drift_retraining", day).skip_message)
    # A day in the past knows nothing of later requests.
    store_reports(TODAY - timedelta(days=1), Kind.CONCEPT, {"C": alarm(TODAY - timedelta(days=1))})
    assert "open" not in str(tick("drift_retraining", TODAY - timedelta(days=1)))


def test_drift_alone_and_one_window_request_nothing(store_reports, tick, instance):
    synchronize(instance, ["A", "B"])
    before = TODAY - timedelta(days=14)
    for day in (before, TODAY):
        store_reports(
            day, Kind.DRIFT, {"A": {"says": "score_mean drifted"}, "B": {"says": "x drifted"}}
        )
    store_reports(
        TODAY, Kind.PERFORMANCE, {"A": {"says": "error +30%"}, "B": {"says": "error +30%"}}
    )
    assert isinstance(tick("drift_retraining"), SkipReason)
    store_reports(before, Kind.PERFORMANCE, {"A": {"says": "error +25%"}})
    (request,) = requests_of(tick("drift_retraining"))
    assert request.tags[RANGE_START] == request.tags[RANGE_END] == "A"
    assert "error +30% and score_mean drifted" in request.tags[REASON]


def test_long_ids_and_reasons_fit_into_tags(store_reports, tick, instance):
    names = [chr(0x410 + number) * 255 for number in range(20)]
    synchronize(instance, names)
    store_reports(TODAY, Kind.CONCEPT, {name: alarm(TODAY) for name in names})
    (request,) = requests_of(tick("drift_retraining"))
    assert max(len(value.encode()) for value in request.tags.values()) <= 2000
    start(instance, request)
    assert "in flight" in str(tick("drift_retraining").skip_message)


ENDED = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}


def test_a_run_is_in_flight_from_the_queue_to_its_end():
    """MANAGED is no state of a run that anybody starts: it is written by others' launchers."""
    assert set(IN_FLIGHT) == set(DagsterRunStatus) - ENDED - {DagsterRunStatus.MANAGED}


@pytest.mark.parametrize("job", ["train_advanced_ml_models", "retrain_drifted_courses"])
def test_nothing_is_requested_beside_a_training_in_any_state(store_reports, tick, instance, job):
    synchronize(instance, ["A"])
    store_reports(TODAY, Kind.CONCEPT, {"A": alarm(TODAY)})
    place = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("grade_ml"), "__repository__")
    for status in IN_FLIGHT:
        run = create_run_for_test(
            instance,
            job_name=job,
            tags=range_tags("A", "A"),
            status=status,
            remote_job_origin=RemoteJobOrigin(place, job),
            job_code_origin=None,
        )
        assert isinstance(tick("drift_retraining"), SkipReason), status
        instance.delete_run(run.run_id)
    assert len(requests_of(tick("drift_retraining"))) == 1


def test_monitoring_waits_for_the_first_predictions(definitions, instance):
    synchronize(instance, ["A"])
    schedule = definitions.resolve_schedule_def("monitoring")
    with schedule_context(instance, definitions.resources["platform"]) as context:
        skipped = schedule.evaluate_tick(context)
    assert skipped.run_requests == [] and "no predictions yet" in str(skipped.skip_message)


@pytest.mark.slow
def test_the_job_reports_on_every_course(settings, engine, instance):
    campus = campuses.world()
    campuses.fill(settings, engine, campus)
    courses = synchronize(instance, campus.courses)
    now = settings.model_copy(update={"as_of": campuses.TODAY})
    job = build_defs(now).resolve_job_def("monitor_model_performance")
    result = job.execute_in_process(
        run_config=QUIET,
        instance=instance,
        tags=range_tags(courses[0], courses[-1]),
        raise_on_error=False,
    )
    assert result.success
    events = result.asset_materializations_for_node("model_health")
    by_course = {event.partition: event.metadata for event in events}
    assert sorted(by_course) == sorted(courses)
    scores = {course: metadata["score (of 100)"].value for course, metadata in by_course.items()}
    table = [row.data["course"] for row in by_course[courses[0]]["neediest courses"].records]
    assert sorted(table, key=lambda name: scores[name])[0] == table[0]
    page = by_course[courses[0]]["page"].value
    assert "A picture needs a second day" in Path(page).read_text()
    checks = {
        evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()
    }
    assert checks["data_quality"].metadata["courses tested"].value == len(courses)
    assert checks["complete"].passed
    with engine.connect() as connection:
        reports = store.read(connection, campuses.TODAY, days=1, courses=courses)
    assert {(report.course_id, report.kind) for report in reports} == {
        (course, kind) for course in courses for kind in Kind
    }
