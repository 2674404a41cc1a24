from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.launcher.base import WorkerStatus

from grade_ml.core.process import Identity
from grade_ml.core.settings import Settings
from grade_ml.orchestration.instance import open_instance, process_tag

pytestmark = pytest.mark.security


@pytest.fixture
def instance(
    settings: Settings, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[DagsterInstance]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with open_instance(settings) as instance:
        yield instance


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def started(instance: DagsterInstance, process: subprocess.Popen[bytes]) -> DagsterRun:
    return instance.add_run(
        DagsterRun(
            job_name="refresh_gradebook",
            run_id=str(uuid.uuid4()),
            status=DagsterRunStatus.STARTED,
            tags=process_tag(Identity.of(process.pid)),
        )
    )


def status(instance: DagsterInstance, run: DagsterRun) -> DagsterRunStatus:
    stored = instance.get_run_by_id(run.run_id)
    assert stored
    return stored.status


def test_the_daemon_recognises_a_dead_run(instance: DagsterInstance, process):
    run = started(instance, process)
    assert instance.run_launcher.supports_check_run_worker_health
    health = instance.run_launcher.check_run_worker_health
    assert health(run).status is WorkerStatus.RUNNING
    process.kill()
    process.wait()
    assert health(run).status is WorkerStatus.FAILED


def test_canceling_ends_the_process(instance: DagsterInstance, process):
    run = started(instance, process)
    assert instance.run_launcher.terminate(run.run_id)
    assert process.wait(30) < 0
    assert status(instance, run) is DagsterRunStatus.CANCELING


def test_canceling_a_dead_run_ends_it_at_once(instance: DagsterInstance, process):
    run = started(instance, process)
    process.kill()
    process.wait()
    assert instance.run_launcher.terminate(run.run_id)
    assert status(instance, run) is DagsterRunStatus.CANCELED
    assert not instance.run_launcher.terminate(run.run_id)
