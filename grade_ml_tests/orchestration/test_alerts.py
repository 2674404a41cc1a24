"""Alerts by real ticks: one when something begins to be wrong, and one when that is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from http.server import HTTPServer

import pytest
import sqlalchemy as sa
from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetCheckSeverity,
    AssetKey,
    AssetMaterialization,
    DagsterInstance,
    DagsterRunStatus,
    SkipReason,
    build_sensor_context,
)
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.storage.tags import WILL_RETRY_TAG
from dagster._core.test_utils import create_run_for_test
from dagster_shared.error import SerializableErrorInfo

from grade_ml.core import optional
from grade_ml.core.degradation import expected
from grade_ml.core.optional import absence
from grade_ml.core.policy import outdated
from grade_ml.core.settings import Settings
from grade_ml.maintenance import history, libraries
from grade_ml.maintenance.health import SETTINGS, Part, SystemHealth
from grade_ml.monitoring import store
from grade_ml.monitoring.store import Kind
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.catalog import synchronize
from grade_ml.orchestration.degradation import is_complete
from grade_ml.orchestration.ranges import PARTITION, range_tags
from grade_ml.orchestration.recorded import COMPLETE
from grade_ml_tests.alerts.servers import Webhook, serving
from grade_ml_tests.orchestration.conftest import Stopped

TODAY = date(2025, 10, 20)
Tick = Callable[..., str]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    """Dagster's tables, made once: it takes a second. Those in memory lack that of ticks."""
    with DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as instance:
        yield instance


@pytest.fixture
def instance(files: DagsterInstance) -> Iterator[DagsterInstance]:
    yield files
    files.wipe()
    files.schedule_storage.wipe()


@pytest.fixture
def clock() -> Stopped:
    return Stopped(datetime.now(UTC))


@pytest.fixture
def tick(settings: Settings, instance: DagsterInstance, clock: Stopped) -> Tick:
    def evaluate(name: str) -> str:
        today = settings.model_copy(update={"as_of": TODAY})
        definitions = build_defs(today, clock=clock)
        with build_sensor_context(
            instance=instance,
            definitions=definitions,
            resources={"platform": definitions.resources["platform"]},
        ) as context:
            evaluation = definitions.resolve_sensor_def(name)(context)
        assert isinstance(evaluation, SkipReason)
        return str(evaluation.skip_message)

    return evaluate


@pytest.fixture
def store_reports(engine) -> Callable[..., None]:
    """Store how the models of some courses are."""

    def write(bodies: dict[str, dict[str, object]]) -> None:
        with engine.begin() as connection:
            store.write(connection, Kind.HEALTH, TODAY, bodies)

    return write


@pytest.fixture
def run(instance: DagsterInstance) -> Callable[..., str]:
    """Write down a run that has ended."""

    def write(succeeded: bool, job: str = "refresh_gradebook", **named) -> str:
        status = DagsterRunStatus.SUCCESS if succeeded else DagsterRunStatus.FAILURE
        return create_run_for_test(instance, job_name=job, status=status, **named).run_id

    return write


def test_low_health_is_alerted_once(store_reports, tick, caplog):
    low = {"score": 41.0, "needs": True, "worst": "drift: 9 of 70 features drifted"}
    store_reports({"A": low, "B": {"score": 90.0, "needs": False, "worst": ""}})
    assert "Open problems: 1. New notices: 1" in tick("health_alerts")
    assert "Alert: health of A. 41 of 100" in caplog.text
    assert "Open problems: 1. New notices: 0" in tick("health_alerts")
    store_reports({"A": {"score": 80.0, "needs": False, "worst": ""}})
    assert "Open problems: 0. New notices: 1" in tick("health_alerts")


def test_a_failed_job_is_alerted_until_it_works_again(tick, run):
    assert "Open problems: 0. New notices: 0" in tick("run_failure_alerts")
    run(False)
    assert "Open problems: 1. New notices: 1" in tick("run_failure_alerts")
    run(False)
    assert "Open problems: 1. New notices: 0" in tick("run_failure_alerts")
    run(True)
    assert "Open problems: 0. New notices: 1" in tick("run_failure_alerts")


def test_a_run_that_died_and_is_started_over_is_not_alerted(tick, run):
    run(False, tags={WILL_RETRY_TAG: "true"})
    assert "Open problems: 0. New notices: 0" in tick("run_failure_alerts")
    run(False, tags={WILL_RETRY_TAG: "false"})
    assert "Open problems: 1. New notices: 1" in tick("run_failure_alerts")


def test_a_channel_that_was_down_gets_its_alert_from_whichever_sensor_ticks_next(
    store_reports, tick, engine, monkeypatch
):
    store_reports({"A": {"score": 41.0, "needs": True, "worst": "drift"}})
    with serving(HTTPServer(("127.0.0.1", 0), Webhook)) as webhook:
        url = f"http://127.0.0.1:{webhook.server_address[1]}/"
        monkeypatch.setenv("GRADE_ML_ALERT_WEBHOOK_URL", url)
        webhook.status = 500
        first = tick("health_alerts")
        webhook.received.clear()
        webhook.status = 200
        with engine.begin() as connection:
            later = "update alerts.outbox set due_at = due_at - interval '1 hour'"
            connection.execute(sa.text(later))
        second = tick("run_failure_alerts")
    assert (
        "Open problems: 1. New notices: 1" in first
        and "Not sent by webhook (the webhook answered 500" in first
    )
    assert "Not sent" not in second
    assert [post["text"] for post in webhook.received] == ["grade_ml: Alert: health of A"]


def test_a_success_on_other_courses_repairs_no_failure(tick, run, instance):
    synchronize(instance, ["A", "B"])
    job = "monitor_model_performance"
    run(False, job, tags=range_tags("A", "A"))
    assert "Open problems: 1. New notices: 1" in tick("run_failure_alerts")
    run(True, job, tags=range_tags("B", "B"))
    assert "Open problems: 1. New notices: 0" in tick("run_failure_alerts")
    run(True, job, tags=range_tags("A", "B"))
    assert "Open problems: 0. New notices: 1" in tick("run_failure_alerts")


def test_what_was_materialized_by_hand_and_failed_is_alerted_until_any_run_makes_it(
    tick, run, instance, caplog
):
    synchronize(instance, ["A", "B"])
    chosen = {AssetKey("pooled_ensemble"), AssetKey("grade_predictions")}
    run(False, "__ASSET_JOB", asset_selection=chosen, tags=range_tags("A", "B"))
    assert "Open problems: 1. New notices: 1" in tick("run_failure_alerts")
    assert "Alert: materialization of grade_predictions, pooled_ensemble" in caplog.text
    run(True, "__ASSET_JOB", asset_selection={AssetKey("pooled_ensemble")})
    run(True, "refresh_gradebook", tags=range_tags("A", "A"))
    assert "Open problems: 1. New notices: 0" in tick("run_failure_alerts")
    run(True, "refresh_gradebook", tags=range_tags("B", "B"))
    assert "Open problems: 0. New notices: 1" in tick("run_failure_alerts")


@pytest.mark.parametrize(
    "launched",
    [
        {"asset_selection": {AssetKey("grade_snapshots")}},
        {"asset_selection": {AssetKey("grade_snapshots")}, "tags": {PARTITION: "NOPE"}},
        {"asset_selection": {AssetKey("grade_snapshots")}, "tags": range_tags("A", "NOPE")},
        {"asset_check_selection": {AssetCheckKey(AssetKey("grade_snapshots"), "all_courses")}},
    ],
    ids=["no partition", "no such course", "no such range", "a check alone"],
)
def test_a_failure_by_hand_sends_an_alert_whatever_it_was_launched_for(
    tick, run, instance, caplog, launched
):
    synchronize(instance, ["A", "B"])
    run(False, "__ASSET_JOB", **launched)
    assert "Open problems: 1. New notices: 1" in tick("run_failure_alerts")
    assert "Alert: materialization of grade_snapshots" in caplog.text
    run(True, "__ASSET_JOB", asset_selection={AssetKey("weather")})
    assert "Open problems: 1. New notices: 0" in tick("run_failure_alerts")
    run(True, "refresh_gradebook", tags=range_tags("A", "A"))
    assert "Open problems: 0. New notices: 1" in tick("run_failure_alerts")


def test_a_day_that_a_backfill_could_not_make_is_alerted_until_that_day_is_made(tick, run):
    weather = {AssetKey("weather")}
    run(False, "__ASSET_JOB", asset_selection=weather, tags={PARTITION: "2025-10-17"})
    run(False, "__ASSET_JOB", asset_selection=weather, tags=range_tags("2025-10-10", "2025-10-11"))
    run(True, "__ASSET_JOB", asset_selection=weather, tags={PARTITION: "2025-10-18"})
    assert "Open problems: 1. New notices: 1" in tick("run_failure_alerts")
    run(True, "collect_external_data", tags={PARTITION: "2025-10-17"})
    run(True, "__ASSET_JOB", asset_selection=weather, tags={PARTITION: "2025-10-10"})
    assert "Open problems: 1. New notices: 0" in tick("run_failure_alerts")
    run(True, "__ASSET_JOB", asset_selection=weather, tags={PARTITION: "2025-10-11"})
    assert "Open problems: 0. New notices: 1" in tick("run_failure_alerts")


def test_a_backfill_that_dagster_gave_up_is_alerted_until_the_next_ends_well(tick, instance):
    def backfill(name: str, status: BulkActionStatus, at: datetime) -> None:
        instance.add_backfill(
            PartitionBackfill(
                name,
                status,
                False,
                {},
                at.timestamp(),
                asset_selection=[AssetKey("grade_snapshots")],
            )
        )

    noon = datetime(2025, 10, 20, 12, tzinfo=UTC)
    backfill("one", BulkActionStatus.FAILED, noon)
    assert "Open problems: 1. New notices: 1" in tick("run_failure_alerts")
    backfill("two", BulkActionStatus.COMPLETED_SUCCESS, noon + timedelta(hours=1))
    assert "Open problems: 0. New notices: 1" in tick("run_failure_alerts")


ORIGIN = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("grade_ml"), "__repository__")


@pytest.fixture
def ticked(instance: DagsterInstance) -> Callable[..., None]:
    """Write down a tick of a schedule or sensor that is switched on, as the daemon does."""
    states: dict[str, InstigatorState] = {}

    def write(name: str, at: datetime, status: TickStatus, cron: str = "", failures: int = 0):
        kind = InstigatorType.SCHEDULE if cron else InstigatorType.SENSOR
        if name not in states:
            data = ScheduleInstigatorData(cron, at.timestamp() - 1) if cron else None
            states[name] = InstigatorState(
                ORIGIN.get_instigator_origin(name), kind, InstigatorStatus.DECLARED_IN_CODE, data
            )
            instance.add_instigator_state(states[name])
        error = SerializableErrorInfo("secret words", [], "OperationalError")
        instance.create_tick(
            TickData(
                states[name].instigator_origin_id,
                name,
                kind,
                status,
                at.timestamp(),
                run_ids=[],
                error=error if status is TickStatus.FAILURE else None,
                selector_id=states[name].selector_id,
                consecutive_failure_count=failures,
            )
        )

    return write


def test_ticks_that_fail_are_alerted_without_their_words(tick, ticked, clock, caplog):
    ticked("course_catalog", clock.at, TickStatus.FAILURE, failures=2)
    ticked("monitoring", clock.at, TickStatus.FAILURE, "0 */2 * * *", failures=1)
    assert "Open problems: 1. New notices: 1" in tick("run_failure_alerts")
    assert "Alert: ticks of monitoring. The newest failed with OperationalError" in caplog.text
    later = clock.at + timedelta(minutes=1)
    ticked("course_catalog", later, TickStatus.FAILURE, failures=3)
    assert "Open problems: 2. New notices: 1" in tick("run_failure_alerts")
    later += timedelta(minutes=1)
    ticked("course_catalog", later, TickStatus.SKIPPED)
    ticked("monitoring", later, TickStatus.SUCCESS, "0 */2 * * *")
    assert "Open problems: 0. New notices: 2" in tick("run_failure_alerts")
    assert "secret" not in caplog.text


def test_a_schedule_that_sleeps_is_alerted_and_so_is_what_grows_stale(
    tick, ticked, clock, instance, caplog
):
    """The clock is moved on from the hour in which monitoring ran, at 6."""
    six = datetime.now(UTC).replace(hour=6, minute=0, second=0, microsecond=0)
    clock.at = six + timedelta(minutes=30)
    ticked("monitoring", six, TickStatus.SUCCESS, "0 */2 * * *")
    assert "Open problems: 0." in tick("health_alerts")
    ticked("monitoring", six + timedelta(hours=2), TickStatus.SKIPPED, "0 */2 * * *")
    clock.at = six + timedelta(hours=2, minutes=30)
    assert "Open problems: 0." in tick("health_alerts")
    clock.at = six + timedelta(hours=4, minutes=30)
    assert "Open problems: 1. New notices: 1" in tick("health_alerts")
    assert "Alert: schedule monitoring. It should have ticked at" in caplog.text
    made = datetime.now(UTC)
    instance.report_runless_asset_event(AssetMaterialization("drift_report"))
    clock.at = max(made, six + timedelta(hours=2)) + timedelta(hours=4, minutes=30)
    assert "Open problems: 2. New notices: 1" in tick("health_alerts")
    assert "Alert: freshness of monitoring" in caplog.text and "drift_report (" in caplog.text
    hours = [six + timedelta(hours=hour) for hour in range(4, 48, 2)]
    for at in [hour for hour in hours if hour <= clock.at]:
        ticked("monitoring", at, TickStatus.SKIPPED, "0 */2 * * *")
    assert "Open problems: 0. New notices: 2" in tick("health_alerts")


@pytest.fixture
def answer(instance: DagsterInstance) -> Callable[..., None]:
    """Write down why the second opinions are degraded."""

    def write(*reasons: str) -> None:
        check = is_complete(reasons)
        instance.report_runless_asset_event(AssetMaterialization("lime_explanations"))
        instance.report_runless_asset_event(
            AssetCheckEvaluation(
                AssetKey("lime_explanations"),
                COMPLETE,
                check.passed,
                check.metadata,
                severity=AssetCheckSeverity.WARN,
            )
        )

    return write


def test_a_fault_sends_an_alert_and_what_is_expected_sends_none(tick, answer, caplog):
    as_expected = expected("contributions of the baseline are sampled")
    answer(as_expected)
    assert "Open problems: 0. New notices: 0" in tick("health_alerts")
    answer(as_expected, "The model cannot be read.")
    assert "Open problems: 1. New notices: 1" in tick("health_alerts")
    assert "Alert: degraded lime_explanations. The model cannot be read." in caplog.text
    answer()
    assert "Open problems: 0. New notices: 1" in tick("health_alerts")


def test_a_library_that_was_lost_sends_an_alert_and_one_that_was_never_there_sends_none(
    tick, answer, engine, monkeypatch, caplog
):
    why, now, find_spec = f"{absence('lime')}: none", datetime.now(UTC), optional.find_spec
    answer(why)
    assert not is_complete([why]).passed

    def alerts(*missing: str, recording: bool = False) -> str:
        monkeypatch.setattr(
            optional, "find_spec", lambda name: None if name in missing else find_spec(name)
        )
        if recording:
            with engine.begin() as connection:
                libraries.record(connection, now)
        return tick("health_alerts")

    assert "Open problems: 0. New notices: 0" in alerts("lime", recording=True)
    # It was installed since, and its asset was not materialized again.
    assert "Open problems: 0. New notices: 0" in alerts(recording=True)
    assert "Open problems: 1. New notices: 1" in alerts("lime", recording=True)
    assert f"Alert: degraded lime_explanations. {why}" in caplog.text
    with engine.begin() as connection:
        month = outdated(libraries.library, now.date() + timedelta(days=31))
        connection.execute(sa.delete(libraries.library).where(month))
    assert "Open problems: 0. New notices: 1" in alerts("lime", recording=True)


def test_the_installation_is_alerted_below_its_score_and_not_at_it(tick, engine, clock, caplog):
    def judge(points: float) -> None:
        part = Part(points, 10, "half a GB is free", "Make room.")
        clock.at += timedelta(hours=1)
        with engine.begin() as connection:
            history.record(connection, SystemHealth(clock.at, points, {"disk": part}))

    judge(SETTINGS.alert_below)
    assert "Open problems: 0." in tick("health_alerts")
    judge(SETTINGS.alert_below - 1)
    assert "Open problems: 1. New notices: 1" in tick("health_alerts")
    assert "Alert: system health. 59 of 100; disk: half a GB is free. Make room." in caplog.text
    judge(100)
    assert "Open problems: 0. New notices: 1" in tick("health_alerts")
