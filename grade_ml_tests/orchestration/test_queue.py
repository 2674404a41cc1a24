"""Limits of runs come from the settings, and a run that a setting spoils is not tried again."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, Definitions, RunsFilter
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.run_coordinator import SubmitRunContext
from dagster._core.storage.tags import MAX_RUNTIME_SECONDS_TAG, WILL_RETRY_TAG
from dagster._core.test_utils import create_run_for_test

from grade_ml.core.errors import ConfigurationError
from grade_ml.core.settings import Settings
from grade_ml.maintenance.results import PART_OF
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.instance import open_instance
from grade_ml.orchestration.queue import ML_TASKS
from grade_ml.orchestration.running import _holder

IN_POOL = {
    *("baseline_model", "pooled_ensemble", "course_ensemble", "trajectory_model"),
    *("trajectory_forecasts", "risk_periods", "interventions", "performance_anomalies"),
    *("shap_explanations", "feature_importance", "decision_paths"),
    *("lime_explanations", "counterfactuals", "narratives"),
}


@pytest.fixture
def instance(
    settings: Settings, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[DagsterInstance]:
    """An instance with limits; Dagster's processes know the environment only."""
    limits = {
        "GRADE_ML_RUN_AT_ONCE": "3",
        "GRADE_ML_RUN_ML_TASKS": "2",
        "GRADE_ML_RUN_HOURS": '{"manage_ab_tests": 0.5}',
    }
    for name, value in (environment | limits).items():
        monkeypatch.setenv(name, value)
    with open_instance(settings.model_copy(update={"run_ml_tasks": 2})) as instance:
        yield instance


def test_what_trains_forecasts_or_explains_is_in_the_pool(definitions: Definitions):
    graph = definitions.resolve_asset_graph()
    pools = {key.to_user_string(): graph.get(key).pools for key in graph.materializable_asset_keys}
    assert {name for name, own in pools.items() if ML_TASKS in own} == IN_POOL
    tagged = {
        job.name
        for job in definitions.resolve_all_job_defs()
        if job.tags.get("grade_ml/queue") == ML_TASKS
    }
    assert tagged == {
        job.name
        for job in definitions.resolve_all_job_defs()
        if ML_TASKS in job.graph.pools and not job.name.startswith("__")
    }


def test_the_limits_are_those_of_the_settings(instance: DagsterInstance):
    queue = instance.get_concurrency_config().run_queue_config
    assert queue and queue.max_concurrent_runs == 3
    assert [limit["key"] for limit in queue.tag_concurrency_limits] == ["dagster/backfill"]

    def limited(job: str, **tags: str) -> str:
        place = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("grade_ml"), "repository")
        run = create_run_for_test(
            instance,
            job,
            status=DagsterRunStatus.NOT_STARTED,
            tags=tags,
            remote_job_origin=place.get_job_origin(job),
            job_code_origin=None,
        )
        workspace: Any = None  # the queue does not look at it
        queued = instance.run_coordinator.submit_run(SubmitRunContext(run, workspace))
        assert queued.status is DagsterRunStatus.QUEUED
        return queued.tags[MAX_RUNTIME_SECONDS_TAG]

    assert limited("manage_ab_tests") == "1800"
    assert limited("train_advanced_ml_models") == str(3 * 3600)
    assert limited("__ASSET_JOB") == str(4 * 3600)
    assert limited("manage_ab_tests", **{MAX_RUNTIME_SECONDS_TAG: "7"}) == "7"


def test_the_run_of_a_part_takes_no_place_besides_that_of_the_whole(instance: DagsterInstance):
    def places() -> int:
        config = instance.get_concurrency_config().run_queue_config
        assert config
        going = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED]))
        return config.max_concurrent_runs - len(going)

    assert places() == 3
    whole = create_run_for_test(instance, "first_day", status=DagsterRunStatus.STARTED)
    assert places() == 2
    tags = {PART_OF: whole.run_id}
    part = create_run_for_test(instance, status=DagsterRunStatus.STARTED, tags=tags)
    assert places() == 2
    instance.report_run_canceled(part)
    assert places() == 2


def test_every_pool_has_its_limit_before_dagster_meets_it(
    instance: DagsterInstance, definitions: Definitions
):
    limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
    used = {pool for job in definitions.resolve_all_job_defs() for pool in job.graph.pools}
    assert limits == dict.fromkeys(used, 1) | {ML_TASKS: 2}


def test_a_command_waits_while_all_places_of_a_pool_are_taken(instance: DagsterInstance):
    from dagster._core.storage.dagster_run import RunOpConcurrency

    taken = RunOpConcurrency(
        root_key_counts={}, has_unconstrained_root_nodes=True, all_pools={ML_TASKS}
    )
    for number in range(3):
        held = _holder(instance, {ML_TASKS, "experiments"})
        assert (held is not None) == (number == 2)
        instance.add_run(
            DagsterRun(
                job_name="j",
                run_id=str(uuid.uuid4()),
                status=DagsterRunStatus.STARTED,
                run_op_concurrency=taken,
            )
        )
    assert _holder(instance, {"experiments"}) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GRADE_ML_RUN_AT_ONCE", "0"),
        ("GRADE_ML_RUN_ML_TASKS", "-1"),
        ("GRADE_ML_RUN_HOURS", '{"no_such_job": 1}'),
        ("GRADE_ML_RUN_HOURS", '{"manage_ab_tests": 0}'),
        ("GRADE_ML_RUN_HOURS", "three"),
        ("GRADE_ML_RUN_MEMORY_RESERVE_MB", "-5"),
        ("GRADE_ML_TIMEZONE", "nowhere"),
        ("GRADE_ML_ALERT_SMTP_PORT", "mail"),
        ("GRADE_ML_ONEROSTER_PAGE_SIZE", "0"),
    ],
)
def test_a_run_that_a_setting_spoils_is_not_tried_again(
    instance: DagsterInstance,
    definitions: Definitions,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
):
    run = create_run_for_test(instance, "manage_ab_tests", status=DagsterRunStatus.STARTING)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError):
        instance.run_launcher.launch_run(Launch(run))
    with pytest.raises(ConfigurationError):
        build_defs()
    assert not is_tried_again(instance, run.run_id)


class Launch:
    """What the launcher is given, as far as it looks before there is a process."""

    def __init__(self, run: Any) -> None:
        self.dagster_run = run


def is_tried_again(instance: DagsterInstance, run_id: str) -> bool:
    """Let a run fail as the daemon does, and return whether it would start it again."""
    run = instance.get_run_by_id(run_id)
    assert run
    instance.report_run_failed(run)
    failed = instance.get_run_by_id(run_id)
    assert failed
    return failed.tags[WILL_RETRY_TAG] == "true"


def test_a_run_that_was_killed_is_tried_again(instance: DagsterInstance):
    run = create_run_for_test(instance, "manage_ab_tests", status=DagsterRunStatus.STARTED)
    assert is_tried_again(instance, run.run_id)


def test_a_run_for_a_day_that_is_none_is_not_tried_again(
    instance: DagsterInstance, definitions: Definitions
):
    result = definitions.resolve_job_def("manage_ab_tests").execute_in_process(
        instance=instance,
        raise_on_error=False,
        run_config={"resources": {"platform": {"config": {"as_of": "tomorrow"}}}},
    )
    run = instance.get_run_by_id(result.run_id)
    assert run and run.status is DagsterRunStatus.FAILURE
    assert run.tags[WILL_RETRY_TAG] == "false"
