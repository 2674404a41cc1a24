"""The loop by real ticks: what is asked for, when, and that nothing is asked for twice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from http.server import HTTPServer
from pathlib import Path

import pytest
import sqlalchemy as sa
from dagster import (
    DagsterInstance,
    DagsterRunStatus,
    Definitions,
    RunRequest,
    SensorResult,
    SkipReason,
    build_schedule_context,
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
from grade_ml.orchestration.partitions import RANGE_END, RANGE_START, range_tags
from grade_ml.orchestration.running import QUIET
from grade_ml.orchestration.sensors.retraining import REASON
from grade_ml.training import requests
from grade_ml_tests.alerts.servers import Webhook, serving
from grade_ml_tests.monitoring import world as campuses

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
def say(engine) -> Callable[..., None]:
    """Store what the reports of a day say of some courses."""

    def write(day: date, kind: Kind, bodies: dict[str, dict[str, object]]) -> None:
        with engine.begin() as connection:
            store.write(connection, kind, day, bodies)

    return write


def alarm(on: date) -> dict[str, object]:
    return {"says": "scores are lower than predictions imply", "alarm_on": on}


def asked(result: SensorResult | SkipReason) -> list[RunRequest]:
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
        told = [requests.Answer(name, "corrected", 2) for name in courses]
        with engine.begin() as connection:
            return requests.answer(connection, told, "a run", datetime.now(UTC))

    return answer


def test_confirmed_drift_asks_for_just_those_courses_once(say, tick, instance, answered):
    synchronize(instance, ["A", "B", "C", "D"])
    quiet = {"says": "", "alarm_on": None}
    assert isinstance(tick("drift_retraining"), SkipReason)
    bodies = {"A": quiet, "B": alarm(TODAY), "C": alarm(TODAY), "D": quiet, "gone": alarm(TODAY)}
    say(TODAY, Kind.CONCEPT, bodies)

    first, again = (asked(tick("drift_retraining")) for _ in range(2))
    (request,) = first
    assert (request.tags[RANGE_START], request.tags[RANGE_END]) == ("B", "C")
    assert "scores are lower" in request.tags[REASON]
    # The daemon was restarted before it could act: it asks for the same run, by its key.
    assert [one.run_key for one in again] == [request.run_key]

    run = start(instance, request)
    assert "in flight" in str(tick("drift_retraining").skip_message)
    instance.report_run_canceling(run)
    instance.report_run_canceled(run)
    # One that came to nothing is asked for again, but not on the same day.
    assert "asked for today" in str(tick("drift_retraining").skip_message)
    tomorrow = TODAY + timedelta(days=1)
    (retry,) = asked(tick("drift_retraining", tomorrow))
    assert retry.run_key != request.run_key
    start(instance, retry, DagsterRunStatus.SUCCESS)
    assert answered("A", "B", "C") == ["B", "C"] and answered("B") == []
    assert "trained on request" in str(tick("drift_retraining", tomorrow).skip_message)
    # After the cooldown the same alarm is no news.
    later = tomorrow + timedelta(days=40)
    say(later, Kind.CONCEPT, {"B": alarm(TODAY), "C": quiet})
    assert isinstance(tick("drift_retraining", later), SkipReason)


def test_of_a_run_only_courses_that_it_did_not_train_are_asked_for_again(
    say, tick, instance, answered
):
    synchronize(instance, ["A", "B", "C"])
    say(TODAY, Kind.CONCEPT, {name: alarm(TODAY) for name in "ABC"})
    (request,) = asked(tick("drift_retraining"))
    start(instance, request, DagsterRunStatus.FAILURE)
    answered("A", "C")
    (retry,) = asked(tick("drift_retraining", TODAY + timedelta(days=1)))
    assert (retry.tags[RANGE_START], retry.tags[RANGE_END]) == ("B", "B")


def test_pruned_runs_are_neither_forgotten_nor_repeated(say, tick, instance, answered):
    """One course was trained, the training of the other came to nothing; then runs are deleted."""
    synchronize(instance, ["A", "B", "C"])
    say(TODAY, Kind.CONCEPT, {"A": alarm(TODAY), "C": alarm(TODAY)})
    runs = [
        start(instance, one, DagsterRunStatus.SUCCESS) for one in asked(tick("drift_retraining"))
    ]
    answered("A")
    for run in runs:
        instance.delete_run(run.run_id)
    tomorrow = TODAY + timedelta(days=1)
    say(tomorrow, Kind.CONCEPT, {"A": alarm(tomorrow), "C": alarm(tomorrow)})
    (again,) = asked(tick("drift_retraining", tomorrow))
    assert (again.tags[RANGE_START], again.tags[RANGE_END]) == ("C", "C")
    instance.delete_run(start(instance, again, DagsterRunStatus.SUCCESS).run_id)
    answered("C")
    for days in (1, 10, 27):
        day = TODAY + timedelta(days=days)
        say(day, Kind.CONCEPT, {"A": alarm(day), "C": alarm(day)})
        assert "trained on request" in str(tick("drift_retraining", day).skip_message)
    # A day in the past knows nothing of what was asked for later.
    say(TODAY - timedelta(days=1), Kind.CONCEPT, {"C": alarm(TODAY - timedelta(days=1))})
    assert "open" not in str(tick("drift_retraining", TODAY - timedelta(days=1)))


def test_drift_alone_and_one_window_ask_for_nothing(say, tick, instance):
    synchronize(instance, ["A", "B"])
    before = TODAY - timedelta(days=14)
    for day in (before, TODAY):
        say(day, Kind.DRIFT, {"A": {"says": "score_mean drifted"}, "B": {"says": "x drifted"}})
    say(TODAY, Kind.PERFORMANCE, {"A": {"says": "error +30%"}, "B": {"says": "error +30%"}})
    assert isinstance(tick("drift_retraining"), SkipReason)
    say(before, Kind.PERFORMANCE, {"A": {"says": "error +25%"}})
    (request,) = asked(tick("drift_retraining"))
    assert request.tags[RANGE_START] == request.tags[RANGE_END] == "A"
    assert "error +30% and score_mean drifted" in request.tags[REASON]


def test_long_ids_and_reasons_fit_into_tags(say, tick, instance):
    names = [chr(0x410 + number) * 255 for number in range(20)]
    synchronize(instance, names)
    say(TODAY, Kind.CONCEPT, {name: alarm(TODAY) for name in names})
    (request,) = asked(tick("drift_retraining"))
    assert max(len(value.encode()) for value in request.tags.values()) <= 2000
    start(instance, request)
    assert "in flight" in str(tick("drift_retraining").skip_message)


ENDED = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}


def test_a_run_is_in_flight_from_the_queue_to_its_end():
    """MANAGED is no state of a run that anybody starts: it is written by others' launchers."""
    assert set(IN_FLIGHT) == set(DagsterRunStatus) - ENDED - {DagsterRunStatus.MANAGED}


@pytest.mark.parametrize("job", ["train_advanced_ml_models", "retrain_drifted_courses"])
def test_nothing_is_asked_for_beside_a_training_in_any_state_of_its_way(say, tick, instance, job):
    synchronize(instance, ["A"])
    say(TODAY, Kind.CONCEPT, {"A": alarm(TODAY)})
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
    assert len(asked(tick("drift_retraining"))) == 1


def test_low_health_is_told_once(say, tick, caplog):
    low = {"score": 41.0, "needs": True, "worst": "drift: 9 of 70 features drifted"}
    say(TODAY, Kind.HEALTH, {"A": low, "B": {"score": 90.0, "needs": False, "worst": ""}})
    assert "1 wrong, 1 told" in str(tick("health_alerts").skip_message)
    assert "Alert: health of A. 41 of 100" in caplog.text
    assert "1 wrong, 0 told" in str(tick("health_alerts").skip_message)
    say(TODAY, Kind.HEALTH, {"A": {"score": 80.0, "needs": False, "worst": ""}})
    assert "0 wrong, 1 told" in str(tick("health_alerts").skip_message)


def test_a_failed_job_is_told_until_it_works_again(tick, instance):
    def run(status: DagsterRunStatus) -> None:
        create_run_for_test(instance, job_name="refresh_gradebook", status=status)

    assert "0 wrong, 0 told" in str(tick("run_failure_alerts").skip_message)
    run(DagsterRunStatus.FAILURE)
    assert "1 wrong, 1 told" in str(tick("run_failure_alerts").skip_message)
    run(DagsterRunStatus.FAILURE)
    assert "1 wrong, 0 told" in str(tick("run_failure_alerts").skip_message)
    run(DagsterRunStatus.SUCCESS)
    assert "0 wrong, 1 told" in str(tick("run_failure_alerts").skip_message)


def test_a_channel_that_was_down_is_told_later_by_whichever_sensor_ticks_next(
    say, tick, engine, monkeypatch
):
    say(TODAY, Kind.HEALTH, {"A": {"score": 41.0, "needs": True, "worst": "drift"}})
    with serving(HTTPServer(("127.0.0.1", 0), Webhook)) as webhook:
        url = f"http://127.0.0.1:{webhook.server_address[1]}/"
        monkeypatch.setenv("GRADE_ML_ALERT_WEBHOOK_URL", url)
        webhook.status = 500
        first = str(tick("health_alerts").skip_message)
        webhook.received.clear()
        webhook.status = 200
        with engine.begin() as connection:
            later = "update alerts.outbox set due_at = due_at - interval '1 hour'"
            connection.execute(sa.text(later))
        second = str(tick("run_failure_alerts").skip_message)
    assert "1 wrong, 1 told" in first and "Not sent by webhook (the webhook answered 500" in first
    assert "Not sent" not in second
    assert [one["text"] for one in webhook.received] == ["grade_ml: Alert: health of A"]


def test_a_success_on_other_courses_repairs_no_failure(definitions, instance, tick):
    synchronize(instance, ["A", "B"])

    def run(status: DagsterRunStatus, first: str, last: str) -> None:
        create_run_for_test(
            instance,
            job_name="monitor_model_performance",
            status=status,
            tags=range_tags(first, last),
        )

    run(DagsterRunStatus.FAILURE, "A", "A")
    assert "1 wrong, 1 told" in str(tick("run_failure_alerts").skip_message)
    run(DagsterRunStatus.SUCCESS, "B", "B")
    assert "1 wrong, 0 told" in str(tick("run_failure_alerts").skip_message)
    run(DagsterRunStatus.SUCCESS, "A", "B")
    assert "0 wrong, 1 told" in str(tick("run_failure_alerts").skip_message)


def test_monitoring_waits_for_the_first_predictions(definitions, instance_in_files):
    synchronize(instance_in_files, ["A"])
    schedule = definitions.resolve_schedule_def("monitoring")
    skipped = schedule.evaluate_tick(build_schedule_context(instance=instance_in_files))
    assert skipped.run_requests == [] and "grade_predictions" in str(skipped.skip_message)


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
    scores = {course: metadata["score"].value for course, metadata in by_course.items()}
    table = [row.data["course"] for row in by_course[courses[0]]["by_need"].records]
    assert sorted(table, key=lambda name: scores[name])[0] == table[0]
    page = by_course[courses[0]]["page"].value
    assert "data:image/png" in Path(page).read_text()
    checks = {one.check_name: one for one in result.get_asset_check_evaluations()}
    assert checks["data_quality"].metadata["courses_tested"].value == len(courses)
    assert checks["complete"].passed
    with engine.connect() as connection:
        reports = store.read(connection, campuses.TODAY, days=1, courses=courses)
    assert {(one.course_id, one.kind) for one in reports} == {
        (course, kind) for course in courses for kind in Kind
    }
