"""The inbox in Dagster: the sensor requests a run, the run loads, what was refused is reported."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster import (
    DagsterInstance,
    DagsterRunStatus,
    Definitions,
    RunRequest,
    SkipReason,
    build_sensor_context,
)
from dagster._core.test_utils import create_run_for_test
from sqlalchemy import Engine

from grade_ml.core.settings import Settings
from grade_ml.gradebook import arrivals
from grade_ml.gradebook.loading import LoadReport
from grade_ml.orchestration.assets.deliveries import counts
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.running import QUIET, run_job
from grade_ml.orchestration.sensors.facts import reasons
from grade_ml.orchestration.sensors.inbox import AGAIN_AFTER, request
from grade_ml_tests.gradebook.deliveries import CSV, write_folder


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let deliveries have arrived as soon as they are there: tests do not wait."""
    monkeypatch.setattr(arrivals, "QUIET", timedelta())


@pytest.fixture
def watched(settings: Settings, inbox: Path) -> Definitions:
    return build_defs(settings.model_copy(update={"inbox": str(inbox)}))


Tick = Callable[[Definitions], RunRequest | SkipReason]


@pytest.fixture
def tick(instance: DagsterInstance) -> Tick:
    def evaluate(definitions: Definitions) -> RunRequest | SkipReason:
        with build_sensor_context(
            instance=instance,
            definitions=definitions,
            resources={"platform": definitions.resources["platform"]},
        ) as context:
            return definitions.resolve_sensor_def("inbox")(context)

    return evaluate


def run(definitions: Definitions, instance: DagsterInstance):
    job = definitions.resolve_job_def("load_inbox")
    return job.execute_in_process(run_config=QUIET, instance=instance, raise_on_error=False)


def test_without_an_inbox_the_sensor_states_how_to_set_it(definitions, tick: Tick):
    result = tick(definitions)
    assert isinstance(result, SkipReason) and "GRADE_ML_INBOX" in str(result.skip_message)


def test_an_inbox_that_is_gone_is_no_empty_inbox(watched, inbox: Path, tick: Tick):
    inbox.rmdir()
    result = tick(watched)
    assert isinstance(result, SkipReason) and "no folder" in str(result.skip_message)


def test_what_has_not_arrived_is_named(watched, inbox: Path, tick: Tick):
    write_folder(inbox / "night", CSV)
    result = tick(watched)
    assert isinstance(result, SkipReason) and "night" in str(result.skip_message)


@pytest.mark.usefixtures("at_once")
def test_a_delivery_requests_one_run_that_loads_it(
    watched, inbox: Path, tick: Tick, instance: DagsterInstance
):
    write_folder(inbox / "night", CSV)
    first, again = tick(watched), tick(watched)
    assert isinstance(first, RunRequest) and isinstance(again, RunRequest)
    assert first.run_key == again.run_key
    result = run(watched, instance)
    assert result.success
    (event,) = result.asset_materializations_for_node("inbox_deliveries")
    figures = {name: value.value for name, value in event.metadata.items()}
    assert figures["deliveries"] == 1
    assert (figures["result loaded"], figures["quarantined rows"]) == (1, 0)
    assert isinstance(tick(watched), SkipReason)
    assert (inbox / "done" / "night").is_dir()


@pytest.mark.usefixtures("at_once")
def test_a_refused_delivery_fails_the_run_after_the_others_were_loaded_and_alerts_say_why(
    watched, inbox: Path, instance: DagsterInstance, engine: Engine
):
    write_folder(inbox / "1", CSV | {"grades": "a\n"})
    write_folder(inbox / "2", CSV)
    result = run(watched, instance)
    assert not result.success
    (event,) = result.asset_materializations_for_node("inbox_deliveries")
    assert (event.metadata["deliveries"].value, event.metadata["refused"].value) == (1, 1)
    failure = result.failure_data_for_node("inbox_deliveries")
    assert failure and failure.user_failure_data
    assert "grades.csv" in str(failure.user_failure_data.description)
    with engine.begin() as connection:
        (why,) = reasons(connection, instance, [result.run_id]).values()
    assert "1: refused" in why and "grades.csv" in why


@pytest.mark.usefixtures("at_once")
def test_the_command_runs_it_on_an_empty_gradebook(
    settings: Settings, inbox: Path, instance: DagsterInstance
):
    write_folder(inbox / "night", CSV)
    report = run_job(settings.model_copy(update={"inbox": str(inbox)}), instance, "load_inbox")
    assert report.success, report.failures
    assert report.assets[0].figures["result loaded"] == 1


def test_what_a_run_left_there_is_tried_again_but_not_at_once(instance: DagsterInstance):
    now = datetime.now(UTC)
    first = request(instance, ["a"], now)
    assert isinstance(first, RunRequest)
    run = create_run_for_test(instance, "load_inbox", tags=dict(first.tags))
    assert isinstance(request(instance, ["a"], now), SkipReason)
    instance.report_run_failed(run)
    assert instance.get_run_by_id(run.run_id).status is DagsterRunStatus.FAILURE
    assert isinstance(request(instance, ["a"], now + AGAIN_AFTER / 2), SkipReason)
    later = request(instance, ["a"], now + AGAIN_AFTER * 2)
    assert isinstance(later, RunRequest) and later.run_key != first.run_key
    assert isinstance(request(instance, ["b"], now), RunRequest)


@pytest.mark.security
@pytest.mark.usefixtures("at_once")
def test_what_a_delivery_is_called_stays_a_text_in_the_ui(watched, instance, inbox: Path):
    files = CSV | {"sections": CSV["sections"].replace("k,c", "k,c\n[x](javascript:y),c")}
    write_folder(inbox / "<img src=x>", files)
    write_folder(inbox / "bad", CSV | {"```\n# [x](javascript:y)": "a\n"})
    done = run(watched, instance)
    (event,) = done.asset_materializations_for_node("inbox_deliveries")
    summary = str(event.metadata["summary"].value)
    first, *inside, last = summary.split("\n")
    assert first == last == "````" and not any(first in line for line in inside)
    assert "](javascript" not in str(event.metadata["notes"].value)


@pytest.mark.security
def test_ids_in_lists_of_the_ui_are_texts():
    note = "Please look at [x](javascript:y)<img src=x>: |a|"
    report = LoadReport("csv", {}, {}, {}, {}, 0, (), notes=(note,))
    shown = str(counts([report])["notes"].value)
    assert shown.startswith("- Please look at \\[x\\]\\(javascript\\:y\\)\\<img")
