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
from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.storage.dagster_run import RunOpConcurrency
from sqlalchemy import Engine

from grade_ml.campus import simulated
from grade_ml.cli.run import command
from grade_ml.cli.status import collect
from grade_ml.core.clock import Clock
from grade_ml.core.errors import AlreadyRunningError, GradeMLError, NotFoundError, NotReadyError
from grade_ml.core.process import Identity
from grade_ml.core.settings import Settings
from grade_ml.gradebook import schema
from grade_ml.orchestration.instance import open_instance, process_tag
from grade_ml.orchestration.job_descriptions import JOB_DESCRIPTIONS
from grade_ml.orchestration.jobs import JOBS
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
    told = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert told.split()[-1] == "False"
    assert {job.name for job in JOBS} <= set(told.split())
    assert set(JOB_DESCRIPTIONS) == {job.name for job in JOBS}


@pytest.mark.usefixtures("installation", "courses")
def test_an_unknown_job_names_the_known_ones():
    error = run("train").exception
    assert isinstance(error, NotFoundError)
    assert "train_traditional_models" in error.remedy


@pytest.mark.usefixtures("installation", "courses")
def test_an_unknown_course_names_the_known_ones():
    error = run("refresh_gradebook", "--course", "A", "--course", "X").exception
    assert isinstance(error, NotFoundError)
    assert "X" in error.message and "A, B, C" in error.remedy


@pytest.mark.usefixtures("installation", "engine")
def test_an_empty_gradebook_is_not_ready():
    error = run("refresh_gradebook").exception
    assert isinstance(error, NotReadyError)
    assert "grade-ml load" in error.remedy


@pytest.mark.usefixtures("installation", "courses")
def test_a_failed_step_is_reported_with_its_reason():
    ran = run("train_traditional_models", "--json")
    assert isinstance(ran.exception, GradeMLError)
    assert "baseline_model" in ran.exception.message
    report = json.loads(ran.stdout)
    assert report["success"] is False
    assert list(report["failures"]) == ["baseline_model"]
    assert {"asset": "courses", "rows": 3}.items() <= report["assets"][0].items()


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
        assets = {one["asset"]: one["partitions"] for one in json.loads(ran.stdout)["assets"]}
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
    """Start a process that a run is said to train in."""
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
                    all_pools={"training"},
                ),
            )
        )
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def start(job: str, *arguments: str) -> subprocess.Popen[str]:
    """Start `grade-ml run`, whose words nobody sees on a terminal."""
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
                if event.step_key == "baseline_model" and not run.is_finished:
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
    assert recorded.run_op_concurrency.all_pools == {"training"}
    first.kill()
    first.communicate()
    reported = collect(campus, Clock().now())["jobs"]["last_runs"][TRAINING]
    assert (reported["run_id"], reported["status"]) == (killed, "failure")
    again = start(TRAINING, "--wait", "0")
    assert wait_for_training(instance) != killed
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
    assert process.returncode == 128 + number
    assert "was interrupted" in words
    assert "Traceback" not in words
    assert status(instance, interrupted) is DagsterRunStatus.CANCELED


@pytest.mark.security
def test_a_wait_is_bounded_and_says_for_which_run(instance: DagsterInstance, holder):
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
    assert process.returncode == 128 + number
    assert "was interrupted" in words


@pytest.mark.slow
@pytest.mark.security
def test_a_wait_ends_when_the_holder_is_killed(instance: DagsterInstance, holder):
    training = holder()
    process = start(TRAINING)
    assert process.stderr and "Waiting" in process.stderr.readline()
    os.kill(training.pid, signal.SIGKILL)
    training.wait()
    wait_until(lambda: [one for one in instance.get_runs() if one.job_name == TRAINING], "a run")
    process.kill()
    process.communicate()
