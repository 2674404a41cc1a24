"""Tasks through a real webserver that knows the code, on an installation without a daemon.

Nothing takes runs from the queue there but the test: so each state can be looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime

import pytest
import sqlalchemy as sa
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run_iterator

from grade_ml import tasks
from grade_ml.core import database
from grade_ml.core.settings import Settings
from grade_ml.engine import NotEnrolled
from grade_ml.gradebook import schema
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.catalog import synchronize
from grade_ml.orchestration.in_flight import covered
from grade_ml.orchestration.instance import open_instance
from grade_ml.orchestration.results import keep
from grade_ml_tests import REPOSITORY
from grade_ml_tests.conftest import TABLES, as_environment, installation, new_database
from grade_ml_tests.launch import free_port, webserver
from grade_ml_tests.tasks import migration

pytestmark = pytest.mark.slow

TOKEN = "correct horse battery staple"
COURSES = ["SIM-ART101", "SIM-BIO101", "SIM-MATH101", "SIM-PHYS101"]
STUDENT = "sim-053973"
CODE = ("-w", str(REPOSITORY / "workspace.yaml"))


@pytest.fixture(scope="module")
def settings(
    server: database.DatabaseUrls, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Four courses, of which the one student takes the first and the last."""
    folder = tmp_path_factory.mktemp("tasks")
    with (
        new_database(server, "grade_ml_tasks", TABLES) as url,
        installation(server, url, folder) as settings,
    ):
        engine = database.connect(url)
        start, end = date(2024, 9, 1), date(2024, 12, 20)
        with engine.begin() as connection:
            connection.execute(sa.insert(schema.course), [{"course_id": name} for name in COURSES])
            connection.execute(sa.insert(schema.student).values(student_id=STUDENT, attributes={}))
            term = {"term_id": "t", "title": "T", "starts_on": start, "ends_on": end}
            connection.execute(sa.insert(schema.term).values(**term))
            for name in (COURSES[0], COURSES[-1]):
                section = {"section_id": name, "course_id": name, "term_id": "t"}
                connection.execute(
                    sa.insert(schema.section).values(**section, starts_on=start, ends_on=end)
                )
                enrollment = {"section_id": name, "student_id": STUDENT, "enrolled_on": start}
                connection.execute(sa.insert(schema.enrollment).values(**enrollment, attributes={}))
        engine.dispose()
        yield settings


@pytest.fixture(scope="module")
def environment(settings: Settings) -> dict[str, str]:
    return {
        **as_environment(settings),
        "GRADE_ML_AS_OF": "2024-11-01",
        "GRADE_ML_UI_TOKEN": TOKEN,
    }


@pytest.fixture(scope="module")
def ui(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("log") / "ui.log"
    with webserver(environment, log, code=CODE) as url:
        yield url


@pytest.fixture(autouse=True)
def webserver_of_tasks(
    ui: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**environment, "GRADE_ML_UI_URL": ui}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def instance(settings: Settings) -> Iterator[DagsterInstance]:
    with open_instance(settings) as instance:
        synchronize(instance, COURSES)
        yield instance


@pytest.fixture
def ended(instance: DagsterInstance, settings: Settings) -> Callable[[DagsterRun], None]:
    """Do what daemon and sensor do: execute a run unless it was canceled, and keep its result."""

    def carry_out(run: DagsterRun) -> None:
        if not run.is_finished:
            starting = DagsterEventType.RUN_STARTING.value
            instance.report_dagster_event(DagsterEvent(starting, run.job_name), run.run_id)
            known = instance.get_run_by_id(run.run_id)
            job = InMemoryJob(build_defs(settings).resolve_job_def(run.job_name))
            assert known
            list(execute_run_iterator(job, known, instance))
        record = instance.get_run_record_by_id(run.run_id)
        assert record
        engine = database.connect(str(settings.database_url))
        with engine.begin() as connection:
            keep(connection, instance, [record])
        engine.dispose()

    return carry_out


def runs(instance: DagsterInstance) -> list[DagsterRun]:
    return list(instance.get_runs())


def test_a_task_waits_in_the_queue_and_its_result_outlives_webserver_and_run(
    instance: DagsterInstance, ended: Callable[[DagsterRun], None], monkeypatch: pytest.MonkeyPatch
):
    handle = tasks.manage_ab_tests.apply_async((), {}, queue="ml_tasks")
    (run,) = runs(instance)
    assert run.tags["grade_ml/task"] == handle.id
    assert handle.status == "PENDING" and not handle.ready()
    assert "daemon does not run" in handle.waits_for
    with pytest.raises(tasks.TaskTimeout, match="It waits in the queue, and Dagster"):
        handle.get(timeout=0)
    ended(run)
    for task_id in (handle.id, run.run_id):
        assert tasks.result(task_id).get(timeout=0).status == "SUCCESS"
    instance.delete_run(run.run_id)
    monkeypatch.setenv("GRADE_ML_UI_URL", f"http://127.0.0.1:{free_port()}")
    result = tasks.result(handle.id).get(timeout=0)
    assert (result.task, result.run_ids) == ("manage_ab_tests", (run.run_id,))
    assert result.counts["assets"] == 4 and result.seconds and result.ended_at < datetime.now(UTC)
    with pytest.raises(tasks.WebserverUnavailable):
        tasks.manage_ab_tests.delay()


def test_each_stretch_of_a_students_courses_is_a_run_of_one_handle(
    instance: DagsterInstance, ended: Callable[[DagsterRun], None], monkeypatch: pytest.MonkeyPatch
):
    before = {run.run_id for run in runs(instance)}
    handle = tasks.generate_time_series_forecasts.delay(user_id=STUDENT)
    new = [run for run in runs(instance) if run.run_id not in before]
    assert handle.id.endswith("/2")
    assert sorted(name for run in new for name in covered(COURSES, run.tags)) == [
        COURSES[0],
        COURSES[-1],
    ]
    # As of every run of the job; the student's id is nowhere.
    assert {run.tags["dagster/max_runtime"] for run in new} == {"10800"}
    assert STUDENT not in str([(run.tags, run.run_config) for run in new])
    handle.revoke()
    assert {run.status.value for run in runs(instance) if run.run_id not in before} == {"CANCELED"}
    assert not handle.ready() and "is being recorded" in handle.waits_for
    for run in runs(instance):
        if run.run_id not in before:
            ended(run)
    assert handle.status == "REVOKED"
    with pytest.raises(tasks.TaskRevoked) as revoked:
        handle.get()
    assert revoked.value.result.courses == 2
    monkeypatch.setenv("GRADE_ML_AS_OF", "2025-11-01")
    with pytest.raises(NotEnrolled):
        tasks.generate_time_series_forecasts.delay(user_id=STUDENT)


def test_all_courses_are_one_run_and_a_day_is_todays(instance: DagsterInstance):
    tasks.monitor_model_performance.delay()
    tasks.collect_external_data.delay()
    day, courses, *_ = runs(instance)
    assert covered(COURSES, courses.tags) == set(COURSES)
    assert day.tags["dagster/partition"] == "2024-11-01"


def test_a_wrong_token_is_reported_and_not_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRADE_ML_UI_TOKEN", "quite another token of the UI")
    with pytest.raises(tasks.WebserverRefused, match="requires another token") as refused:
        tasks.manage_ab_tests.delay()
    assert "quite another" not in str(refused.value)


def test_every_call_of_the_migration_page_is_taken(instance: DagsterInstance):
    for expression, job in migration.SUBMITTING:
        handle = eval(expression, {"tasks": tasks})
        run = runs(instance)[0]
        assert (run.job_name, run.tags["grade_ml/task"]) == (job, handle.id.partition("/")[0])
        handle.revoke()
    names = {"tasks": tasks}
    exec(re.findall(r"```python\n(.*?)```", migration.PAGE, re.DOTALL)[0], names)
    submitted = names["handle"]
    submitted.revoke()
    for expression in migration.HANDLE:
        if "get(" in expression:
            with pytest.raises(tasks.TaskTimeout):
                eval(expression.replace("600", "0"), names)
        else:
            eval(expression, names)


def test_an_unknown_id(instance: DagsterInstance):
    handle = tasks.result("8c0d9a5e-6b57-4d0c-9d6f-0a2e8f1c7b11")
    for call in (lambda: handle.status, handle.ready, handle.revoke, lambda: handle.get(timeout=0)):
        with pytest.raises(tasks.UnknownTask):
            call()


def test_nothing_is_submitted_for_a_course_without_a_partition(instance: DagsterInstance):
    before = len(runs(instance))
    instance.delete_dynamic_partition("course", COURSES[1])
    with pytest.raises(tasks.NotSubmitted, match="course_catalog"):
        tasks.train_advanced_ml_models.delay(COURSES[1])
    assert len(runs(instance)) == before
