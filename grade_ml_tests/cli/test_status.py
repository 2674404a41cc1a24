from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    AssetMaterialization,
    DagsterInstance,
    DagsterRunStatus,
    MetadataValue,
)
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
)
from dagster._core.test_utils import create_run_for_test
from dagster._daemon.types import DaemonHeartbeat
from rich.console import Console
from sqlalchemy import Engine

from grade_ml.alerts import conditions, outbox
from grade_ml.cli.status import command, show
from grade_ml.core.clock import Clock
from grade_ml.core.database import DatabaseUrls
from grade_ml.core.settings import Settings
from grade_ml.gradebook import schema
from grade_ml.maintenance import history
from grade_ml.maintenance.health import health
from grade_ml.monitoring import store as monitoring
from grade_ml.monitoring.store import Kind
from grade_ml.orchestration.instance import open_instance
from grade_ml.orchestration.jobs import JOBS
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.timetable import CRONS, FIRST_DAY
from grade_ml.registry.registry import Registry
from grade_ml.training import requests
from grade_ml.training.requests import Request
from grade_ml_tests.conftest import as_environment
from grade_ml_tests.conftest import installation as installation_of
from grade_ml_tests.factories import PSEUDONYMS, let_serve
from grade_ml_tests.imports import HEAVY, call
from grade_ml_tests.launch import Installation
from grade_ml_tests.maintenance.test_health import WORSE
from grade_ml_tests.orchestration.test_progress import FAILURE, START, record, step_error

pytestmark = pytest.mark.slow


@pytest.fixture
def installation(
    settings: Settings, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return settings


def status() -> dict:
    ran = CliRunner().invoke(command, ["--json"], catch_exceptions=False)
    assert ran.exit_code == 0
    return json.loads(ran.stdout)


def printed(report: dict, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    show(console, report)
    return console.file.getvalue()


def test_an_installation_that_never_started_stays_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GRADE_ML_HOME", str(tmp_path))
    ran = CliRunner().invoke(command, catch_exceptions=False)
    assert ran.exit_code == 0
    for words in ("never started", "grade-ml up", "Empty", "None yet"):
        assert words in ran.stdout
    assert list(tmp_path.iterdir()) == []
    assert status()["gradebook"] is None


@pytest.mark.usefixtures("engine")
def test_an_empty_gradebook_without_runs(installation: Settings):
    report = status()
    assert report["gradebook"]["last_load"] is None
    assert report["gradebook"]["rows"]["student"] == 0
    assert report["predictions"] is None
    assert report["published"] == {"role": "grade_ml_shared_reader", "missing": []}
    assert report["jobs"]["last_runs"]["train_traditional_models"] is None
    assert report["schedules"]["daemon_alive"] is False
    assert report["champions"] == {} and report["health"] is None
    shown = printed(report)
    assert "Not yet known; the job `system_health` rates it every hour" in shown
    schedules = shown.partition("Schedules\n")[2].partition("\n\n")[0]
    assert "The daemon is not running; schedules and sensors are paused." in schedules
    assert schedules.count("  paused\n") == len(CRONS) and "next" not in schedules
    assert report["services"]["postgresql"] == "elsewhere"
    for width in (80, 120):
        lines = printed(report, width).partition("Last runs\n")[2].partition("\n\n")[0].splitlines()
        for job in JOBS:
            (own,) = [line for line in lines if line.split()[:1] == [job.name]]
            assert own.endswith("  never ran") and len(own) <= width


@pytest.mark.usefixtures("engine")
def test_the_next_run_of_every_schedule_is_shown_unless_it_is_off(installation: Settings):
    now = datetime.now(UTC)
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("grade_ml"), "__repository__")
    with open_instance(installation) as instance:
        for name, state in (("forecasting", "STOPPED"), ("explanations", "DECLARED_IN_CODE")):
            instance.add_instigator_state(
                InstigatorState(
                    repository.get_instigator_origin(name),
                    InstigatorType.SCHEDULE,
                    InstigatorStatus(state),
                    ScheduleInstigatorData("0 1 * * *", now.timestamp()),
                )
            )
        instance.add_daemon_heartbeat(DaemonHeartbeat(now.timestamp(), "SCHEDULER", None, None))
    report = status()
    schedules = report["schedules"]["schedules"]
    assert [name for name, schedule in schedules.items() if not schedule["is_on"]] == [
        "forecasting"
    ]
    assert all(
        datetime.fromisoformat(schedule["next"]) > now
        for schedule in schedules.values()
        if schedule["is_on"]
    )
    shown = printed(report)
    assert "paused" not in shown
    rows = shown.partition("Schedules\n")[2].partition("\n\n")[0].splitlines()
    assert {row.split()[0] for row in rows[:-1]} == CRONS.keys()
    assert "daily at 01:00" in rows[-2] and rows[-2].endswith("switched off")
    assert all("  next 20" in row for row in rows[:-2]) and "GRADE_ML_TIMEZONE" in rows[-1]


@pytest.mark.usefixtures("installation")
def test_rows_and_the_last_load(engine: Engine):
    with engine.begin() as connection:
        connection.execute(sa.insert(schema.course), [{"course_id": "A"}, {"course_id": "B"}])
        connection.execute(
            sa.insert(schema.load).values(
                source="csv",
                loaded_at=datetime(2026, 1, 2, tzinfo=UTC),
                rows_loaded={"course": 2},
                rows_unchanged={},
                rows_removed={},
                rows_quarantined=0,
            )
        )
    report = status()
    assert report["gradebook"]["rows"]["course"] == 2
    assert report["gradebook"]["last_load"]["source"] == "csv"
    shown = printed(report)
    assert "Last load: csv" in shown and "course" in shown


@pytest.mark.usefixtures("installation")
def test_a_database_that_does_not_answer_is_reported_and_not_raised(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("GRADE_ML_DATABASE_URL", "postgresql://nobody:secret@127.0.0.1:1/none")
    report = status()
    assert "does not answer" in report["gradebook"]["error"]
    assert "secret" not in json.dumps(report)
    assert "cannot be read" in printed(report)


def fail_first_day(instance: DagsterInstance) -> None:
    status = DagsterRunStatus.FAILURE
    run = create_run_for_test(instance, FIRST_DAY.name, status=status).run_id
    record(instance, run, START, "sync_gradebook")
    record(instance, run, FAILURE, "sync_gradebook", step_error(ValueError))


def test_what_is_wrong_is_reported(installation: Settings, engine: Engine, tmp_path: Path):
    today, now = datetime.now(UTC).date(), datetime.now(UTC)
    with engine.begin() as connection:
        conditions.record(connection, {"job night": "Run 7 failed"}, bool, ["pager"], now)
        low = {"score": 41.0, "needs": True, "worst": "drift: 9 of 70 features drifted"}
        fine = {"score": 90.0, "needs": False, "worst": ""}
        monitoring.write(connection, Kind.HEALTH, today, {"A": low, "B": fine})
        monitoring.write(connection, Kind.DRIFT, today, {"A": {"says": "score_mean drifted"}})
        request = Request("A", "scores are lower", today, today, "drift-A-A")
        requests.record(connection, [request], now)
        judged = replace(WORSE["runs"], at=now - timedelta(hours=3))
        history.record(connection, health(judged))

    def down(notices) -> str:
        raise OSError("no route to host")

    outbox.deliver(engine.begin, {"pager": down}, now)
    with open_instance(installation) as instance:
        fail_first_day(instance)
        reason = "xgboost is not installed"
        evaluation = AssetCheckEvaluation(
            asset_key=AssetKey("pooled_ensemble"),
            check_name="complete",
            passed=False,
            metadata={"degraded": MetadataValue.json([reason])},
        )
        instance.report_runless_asset_event(AssetMaterialization("pooled_ensemble"))
        instance.report_runless_asset_event(evaluation)
    files = tmp_path / "model"
    files.mkdir()
    (files / "model.json").write_text("{}")
    registry = Platform(installation, Clock()).registry
    for name, features in (("fine", ["score_mean"]), ("odd", ["attribute_name"])):
        version = registry.register(
            name,
            files,
            metrics={},
            parameters={},
            features=features,
            data_version="d",
            code_version="c",
            trained_at=now,
        )
        let_serve(engine, registry, version)

    answer, modules = call("status", "--json")
    assert modules.isdisjoint(HEAVY)
    report = json.loads(answer)
    assert [alert["subject"] for alert in report["alerts"]["open"]] == ["job night"]
    (unsent,) = report["alerts"]["unsent"]
    assert "pager" in unsent and "no route to host" in unsent
    assert report["monitoring"]["in_need"] == {"A": "41 of 100; drift: 9 of 70 features drifted"}
    assert report["monitoring"]["drifted"] == {"A": "score_mean drifted"}
    assert report["monitoring"]["asked_to_train"]["A"]["asked_on"] == today.isoformat()
    assert report["incomplete"] == {"pooled_ensemble": [reason]}
    refused = {name: champion["refused"] for name, champion in report["champions"].items()}
    assert refused["fine"] is None and "attributes that no model may read" in refused["odd"]
    parts, worst = report["health"]["parts"], report["health"]["worst"]
    assert worst == "runs" and parts["runs"]["points"] < parts["disk"]["points"] == 100
    shown = printed(report)
    assert shown.index("Health\n") < shown.index("Services\n")
    assert max(map(len, shown.splitlines())) <= 80
    assert "sync_gradebook failed: See the page of its run." in report["first_day"]["says"]
    shown = " ".join(shown.split())
    assert "3 hours ago; it is rated every hour while `grade-ml up` runs" in shown
    assert "Training: A, requested on" in shown and "scores are lower" in shown
    assert f"What to do first (runs): {parts['runs']['remedy']}" in shown
    for words in (
        "job night",
        "Not sent by pager",
        "1 need attention, 1 have drift, and 1 wait",
        reason,
    ):
        assert words in shown
    assert "REFUSED" in shown.partition("odd, version")[2].partition("fine, version")[0]


#: What cannot be known while that service is down.
SECTIONS = {
    "GRADE_ML_DATABASE_URL": {
        *("gradebook", "health", "predictions", "published", "monitoring", "experiments"),
        "alerts",
    },
    "DAGSTER_POSTGRES_URL": {"first_day", "schedules", "jobs", "incomplete"},
    "MLFLOW_TRACKING_URI": {"champions"},
}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK"


def silent(connection: socket.socket) -> None:
    """Take what comes and never answer."""
    while connection.recv(1 << 16):
        pass


def rude(connection: socket.socket) -> None:
    connection.close()


def half_well(connection: socket.socket) -> None:
    """Say that all is well, and answer nothing else."""
    if b"/health" in connection.recv(1 << 16):
        connection.sendall(OK)
        connection.close()
    else:
        silent(connection)


@pytest.fixture
def listen() -> Iterator[Callable[..., str]]:
    """Listen on a port, do with each connection what is given, and return the place."""
    listening: list[socket.socket] = []

    def listen(behaviour: Callable[[socket.socket], None]) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        listening.append(server)

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                Thread(target=behaviour, args=[connection], daemon=True).start()

        Thread(target=serve, daemon=True).start()
        return f"127.0.0.1:{server.getsockname()[1]}"

    yield listen
    for server in listening:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


#: One section after the other waits until a connection is given up, for 5 s unless the URL sets it.
POSTGRESQL = "postgresql://user:hunter2@{place}/db?password=hunter2&connect_timeout=2"
HTTP = "http://user:hunter2@{place}"


@pytest.fixture(scope="module")
def made(
    server: DatabaseUrls, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The variables of an installation whose tables have been made."""
    with installation_of(server, server.grade_ml, tmp_path_factory.mktemp("made")) as settings:
        Registry(str(settings.mlflow_tracking_uri), str(settings.storage), PSEUDONYMS).prepare()
        yield as_environment(settings)


@pytest.mark.security
@pytest.mark.parametrize(
    ("variable", "url", "behaviour"),
    [
        *((variable, POSTGRESQL, silent) for variable in SECTIONS),
        ("GRADE_ML_DATABASE_URL", POSTGRESQL, rude),
        ("DAGSTER_POSTGRES_URL", POSTGRESQL, None),
        ("MLFLOW_TRACKING_URI", HTTP, silent),
        ("MLFLOW_TRACKING_URI", HTTP, None),
    ],
)
def test_a_service_that_is_down_hides_only_what_it_knows(  # noqa: PLR0917
    variable: str,
    url: str,
    behaviour: Callable[[socket.socket], None] | None,
    made: dict[str, str],
    listen: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
):
    place = listen(behaviour) if behaviour else "127.0.0.1:1"
    for name, value in (made | {variable: url.format(place=place)}).items():
        monkeypatch.setenv(name, value)
    report = status()
    sections = set().union(*SECTIONS.values())
    errors = {name: report[name]["error"] for name in sections if "error" in (report[name] or {})}
    assert set(errors) == SECTIONS[variable], errors
    assert "hunter2" not in json.dumps(report)


@pytest.mark.security
def test_status_ends_though_nothing_answers(tmp_path: Path, listen: Callable[..., str]):
    """Also the process ends, although threads still wait in it."""
    place = listen(half_well)
    variables = dict.fromkeys(SECTIONS, POSTGRESQL) | {"MLFLOW_TRACKING_URI": HTTP}
    installation = Installation(
        tmp_path, **{name: url.format(place=place) for name, url in variables.items()}
    )
    ran = installation.command("status")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("cannot be read") == 12
    assert "no answer within" in " ".join(ran.stdout.split())
    assert "hunter2" not in ran.stdout + ran.stderr
