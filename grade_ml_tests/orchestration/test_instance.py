from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.test_utils import create_run_for_test
from dagster._serdes import deserialize_value, serialize_value

from grade_ml.core.process import Identity
from grade_ml.core.settings import Settings
from grade_ml.orchestration.instance import (
    end_dead_runs,
    open_instance,
    prepare_home,
    process_tag,
)
from grade_ml.orchestration.recorded import PROCESS_TAG
from grade_ml_tests import REPOSITORY

SOURCES = REPOSITORY / "grade_ml" / "orchestration"


@pytest.fixture
def installation(
    settings: Settings, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings that are in the environment, too: Dagster's processes have nothing else."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return settings


@pytest.mark.parametrize("name", ["dagster.yaml", "workspace.yaml"])
def test_the_copy_at_the_top_of_the_repository_is_that_of_the_package(name: str):
    assert (REPOSITORY / name).read_text() == (SOURCES / name).read_text()


def test_the_instance_is_that_of_dagster_yaml(installation: Settings):
    with open_instance(installation) as instance:
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_max_runtime_seconds > 0
        assert instance.run_retries_enabled
        assert not instance.run_retries_retry_on_asset_or_op_failure
        assert not instance.telemetry_enabled
        queue = instance.get_concurrency_config().run_queue_config
        assert queue and queue.max_concurrent_runs == 2
    assert (installation.dagster_home / "dagster.yaml").resolve() == SOURCES / "dagster.yaml"


def test_the_given_url_is_used_and_nothing_embedded_started(installation: Settings):
    with open_instance(installation) as instance:
        used = instance.run_storage.postgres_url
    assert used.partition("://")[2] == str(installation.dagster_postgres_url).partition("://")[2]
    assert not installation.postgres_dir.exists()


def test_a_reference_opens_the_same_tables_and_shows_no_url(installation: Settings):
    with open_instance(installation) as instance:
        instance.add_dynamic_partitions("course", ["A"])
        reference = serialize_value(instance.get_ref())
    assert "postgresql" not in reference
    with DagsterInstance.from_ref(deserialize_value(reference)) as again:
        assert again.get_dynamic_partitions("course") == ["A"]


def test_a_dagster_yaml_of_the_user_stays(installation: Settings):
    installation.dagster_home.mkdir()
    file = installation.dagster_home / "dagster.yaml"
    file.write_text("telemetry:\n  enabled: false\n")
    prepare_home(installation)
    assert file.read_text() == "telemetry:\n  enabled: false\n"


@pytest.mark.parametrize("gone", [True, False])
def test_a_link_to_where_the_package_was_is_renewed(
    installation: Settings, tmp_path: Path, gone: bool
):
    before = tmp_path / "grade_ml" / "orchestration" / "dagster.yaml"
    if not gone:
        before.parent.mkdir(parents=True)
        before.write_text("telemetry:\n  enabled: false\n")
    installation.dagster_home.mkdir()
    link = installation.dagster_home / "dagster.yaml"
    link.symlink_to(before)
    prepare_home(installation)
    assert link.resolve() == SOURCES / "dagster.yaml"


@pytest.mark.security
def test_only_runs_of_killed_processes_are_failed(installation: Settings):
    ended = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    gone = Identity.of(ended.pid)
    ended.communicate()
    tags = {
        "here": process_tag(),
        "ended": process_tag(gone),
        "another of that id": process_tag(Identity(os.getpid(), gone.created)),
        "another machine's": {PROCESS_TAG: f"{gone.pid} {gone.created} elsewhere"},
        "unknown": {},
    }
    with open_instance(installation) as instance:
        runs = {
            name: create_run_for_test(
                instance, run_id=str(uuid.uuid4()), status=DagsterRunStatus.STARTED, tags=value
            ).run_id
            for name, value in tags.items()
        }
        assert end_dead_runs(instance) == 2
        failed = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.FAILURE]))
        expected = {runs[name] for name in ("ended", "another of that id")}
        assert {run.run_id for run in failed} == expected
        assert end_dead_runs(instance) == 0


@pytest.mark.slow
@pytest.mark.security
def test_a_dagster_process_that_is_started_by_hand_is_kept_apart(
    settings: Settings, environment: dict[str, str]
):
    prepare_home(settings)
    code = (
        "import os; from dagster import DagsterInstance; DagsterInstance.get(); "
        "print(oct(os.umask(0)), os.environ['PYTHONSAFEPATH'])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        umask=0o022,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == ["0o77", "1"]
