from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.storage.dagster_run import RunOpConcurrency
from dagster._core.storage.tags import WILL_RETRY_TAG
from sqlalchemy import Engine

from grade_ml.campus import simulated
from grade_ml.cli.run import command
from grade_ml.cli.status import collect
from grade_ml.core.clock import Clock
from grade_ml.core.errors import AlreadyRunningError, GradeMLError, NotFoundError, NotReadyError
from grade_ml.core.process import Identity
from grade_ml.core.settings import Settings
from grade_ml.gradebook import schema
from grade_ml.maintenance import results
from grade_ml.maintenance.results import PART_OF
from grade_ml.orchestration.instance import end_dead_runs, is_dead, open_instance, process_tag
from grade_ml.orchestration.job_descriptions import JOB_DESCRIPTIONS
from grade_ml.orchestration.jobs import JOBS
from grade_ml.orchestration.queue import ML_TASKS
from grade_ml.orchestration.timetable import FIRST_DAY, WEEKLY
from grade_ml_tests.launch import wait_until
from grade_ml_tests.orchestration.conftest import TODAY, fill


@pytest.fixture
def installation(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def courses(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(schema.course), [{"course_id": c} for c in "ABC"])


def run(*arguments: str):
    return CliRunner().invoke(command, arguments)


def test_the_help_names_every_job_without_waiting_for_dagster():
    code = (
        "import sys; from click.testing import CliRunner; from grade_ml.cli.run import command; "
        "print(CliRunner().invoke(command, ['--help']).output, 'dagster' in sys.modules)"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.split()[-1] == "False"
    assert {job.name for job in JOBS} <= set(output.split())
    assert set(JOB_DESCRIPTIONS) == {FIRST_DAY.name, WEEKLY.name, *(job.name for job in JOBS)}


@pytest.mark.usefixtures("installation", "courses")
def test_an_unknown_job_names_the_known_jobs():
    error = run("train").exception
    assert isinstance(error, NotFoundError)
    assert "train_traditional_models" in error.remedy


@pytest.mark.usefixtures("installation", "courses")
def test_an_unknown_course_names_the_known_courses():
    error = run("refresh_gradebook", "--course", "A", "--course", "X").exception
    assert isinstance(error, NotFoundError)
    assert "X" in error.message and "A, B, C" in error.remedy


@pytest.mark.usefixtures("installation", "engine")
def test_an_empty_gradebook_is_not_ready():
    error = run("refresh_gradebook").exception
    assert isinstance(error, NotReadyError)
    assert "grade-ml load" in error.remedy


@pytest.mark.usefixtures("installation", "courses")
def test_a_failed_step_is_reported_with_its_reason(engine: Engine):
    ran = run("train_traditional_models", "--json")
    assert isinstance(ran.exception, GradeMLError)
    assert "baseline_model" in ran.exception.message
    report = json.loads(ran.stdout)
    assert report["success"] is False
    assert list(report["failures"]) == ["baseline_model"]
    assert {"asset": "courses", "rows": 3}.items() <= report["assets"][0].items()
    with engine.connect() as connection:
        (kept,) = results.newest(connection)
    assert [kept.run_id] == report["run_ids"]
    assert (kept.status, kept.launched_by, kept.courses) == ("failure", "command", 3)
    assert kept.error and report["failures"]["baseline_model"] in kept.error


@pytest.mark.slow
@pytest.mark.usefixtures("installation")
def test_a_course_may_have_any_id(engine: Engine):
    ids = [
        "я" * 255,
        "😀" * 255,
        "%" * 255,
        "..",
        ".",
        "x,y",
        "[a] *",
        '"q"',
        "a b ",
        "M",
        "m",
        "--x",
    ]
    with engine.begin() as connection:
        connection.execute(sa.insert(schema.course), [{"course_id": c} for c in ids])
    for chosen in ([], ids[:2], ids[2:]):
        ran = run("refresh_gradebook", *(f"--course={name}" for name in chosen), "--json")
        # The features of all are computed; predictions need a model, which this gradebook lacks.
        assert "No model has been trained" in str(ran.exception)
        assets = {asset["asset"]: asset["partitions"] for asset in json.loads(ran.stdout)["assets"]}
        assert assets["grade_snapshots"] == assets["score_sequences"] == len(chosen or ids)


TRAINING = "train_traditional_models"


@pytest.fixture
def campus(
    installation: None, settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings of an installation where training takes some seconds."""
    config = simulated.CampusConfig(students=150, courses=3, terms=4)
    fill(engine, simulated.gradebook(config, TODAY))
    monkeypatch.setenv("GRADE_ML_AS_OF", str(TODAY))
    return settings


@pytest.fixture
def instance(campus: Settings) -> Iterator[DagsterInstance]:
    with open_instance(campus) as instance:
        yield instance


@pytest.fixture
def holder(instance: DagsterInstance) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Start a process in which, by the record, a run trains."""
    processes = []

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        processes.append(process)
        instance.add_run(
            DagsterRun(
                job_name="train_advanced_ml_models",
                run_id=str(uuid.uuid4()),
                status=DagsterRunStatus.STARTED,
                tags=process_tag(Identity.of(process.pid)),
                run_op_concurrency=RunOpConcurrency(
                    root_key_counts={},
                    has_unconstrained_root_nodes=True,
                    all_pools={ML_TASKS},
                ),
            )
        )
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def start(job: str, *arguments: str) -> subprocess.Popen[str]:
    """Start `grade-ml run` without a terminal."""
    return subprocess.Popen(
        [sys.executable, "-m", "grade_ml.cli", "run", job, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_training(instance: DagsterInstance) -> str:
    """Return the run that has begun to train."""

    def training() -> str | None:
        for run in instance.get_runs():
            for event in instance.all_logs(run.run_id, of_type=DagsterEventType.STEP_START):
                ended = run.is_finished or is_dead(run)
                if event.step_key == "baseline_model" and not ended:
                    return run.run_id
        return None

    return str(wait_until(training, "the beginning of training"))


def status(instance: DagsterInstance, run_id: str) -> DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run
    return run.status


@pytest.mark.slow
@pytest.mark.security
def test_a_killed_training_blocks_nobody(campus: Settings, instance: DagsterInstance):
    first = start(TRAINING)
    killed = wait_for_training(instance)
    # By these the queue of the daemon, and the next `run`, see that it trains.
    recorded = instance.get_run_by_id(killed)
    assert recorded and recorded.run_op_concurrency
    assert recorded.run_op_concurrency.all_pools == {ML_TASKS}
    first.kill()
    first.communicate()
    reported = collect(campus, Clock().now())["jobs"]["last_runs"][TRAINING]
    assert (reported["run_id"], reported["status"]) == (killed, "failure")
    again = start(TRAINING, "--wait", "0")
    assert wait_for_training(instance) != killed
    assert status(instance, killed) is DagsterRunStatus.FAILURE
    again.kill()
    again.communicate()


@pytest.mark.slow
@pytest.mark.security
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_can_be_interrupted(instance: DagsterInstance, number: signal.Signals):
    process = start(TRAINING)
    interrupted = wait_for_training(instance)
    process.send_signal(number)
    _, words = process.communicate(timeout=120)
    assert process.returncode == 128 + number, words
    assert "was interrupted; it is recorded as canceled." in words
    assert "Traceback" not in words
    assert status(instance, interrupted) is DagsterRunStatus.CANCELED


@pytest.mark.security
def test_a_wait_is_bounded_and_names_its_run(instance: DagsterInstance, holder):
    holder()
    (holding,) = instance.get_runs()
    error = run(TRAINING, "--wait", "0").exception
    assert isinstance(error, AlreadyRunningError)
    assert holding.run_id in error.message


@pytest.mark.slow
@pytest.mark.security
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_wait_is_seen_and_can_be_interrupted(
    instance: DagsterInstance, holder, number: signal.Signals
):
    holder()
    (holding,) = instance.get_runs()
    process = start(TRAINING)
    assert process.stderr
    line = process.stderr.readline()
    assert "Waiting for the run" in line and holding.run_id in line
    process.send_signal(number)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 128 + number, words
    assert "was interrupted" in words
    assert "canceled" not in words
    assert [entry.run_id for entry in instance.get_runs()] == [holding.run_id]


@pytest.mark.slow
@pytest.mark.security
def test_a_wait_ends_when_the_holder_is_killed(instance: DagsterInstance, holder):
    training = holder()
    process = start(TRAINING)
    assert process.stderr and "Waiting" in process.stderr.readline()
    os.kill(training.pid, signal.SIGKILL)
    training.wait()
    wait_until(
        lambda: [entry for entry in instance.get_runs() if entry.job_name == TRAINING], "a run"
    )
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.security
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_ends_the_weekly_job_ends_its_part_and_the_next_begins_again(
    campus: Settings, instance: DagsterInstance, number: signal.Signals
):
    process = start(WEEKLY.name)

    def part() -> DagsterRun | None:
        runs = instance.get_runs(RunsFilter(job_name="monitor_model_performance"))
        begun = [
            entry
            for entry in runs
            if instance.all_logs(entry.run_id, of_type=DagsterEventType.STEP_START)
        ]
        return next((entry for entry in begun if not entry.is_finished), None)

    child = wait_until(part, "the beginning of a part")
    process.send_signal(number)
    process.communicate(timeout=120)
    end_dead_runs(instance)
    ended = DagsterRunStatus.FAILURE if number is signal.SIGKILL else DagsterRunStatus.CANCELED
    assert status(instance, child.tags[PART_OF]) is status(instance, child.run_id) is ended
    ends = [instance.get_run_by_id(run_id) for run_id in (child.tags[PART_OF], child.run_id)]
    assert not any(run.tags.get(WILL_RETRY_TAG) == "true" for run in ends if run)
    assert all(entry.is_finished for entry in instance.get_runs())
    again = start(WEEKLY.name)
    wait_until(
        lambda: len(instance.get_runs(RunsFilter(job_name=WEEKLY.name))) == 2, "a second run"
    )
    again.kill()
    again.communicate()
