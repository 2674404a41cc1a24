from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from sqlalchemy import Engine

from grade_ml.cli.status import command
from grade_ml.core.database import DatabaseUrls
from grade_ml.core.settings import Settings
from grade_ml.gradebook import schema
from grade_ml.registry.registry import Registry
from grade_ml_tests.conftest import as_environment
from grade_ml_tests.conftest import installation as installation_of
from grade_ml_tests.factories import PSEUDONYMS
from grade_ml_tests.launch import Installation


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


def test_an_installation_that_never_started_stays_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GRADE_ML_HOME", str(tmp_path))
    ran = CliRunner().invoke(command, catch_exceptions=False)
    assert ran.exit_code == 0
    for said in ("never started", "grade-ml up", "Empty", "None yet"):
        assert said in ran.stdout
    assert list(tmp_path.iterdir()) == []
    assert status()["gradebook"] is None


@pytest.mark.usefixtures("engine")
def test_an_empty_gradebook_without_runs(installation: Settings):
    report = status()
    assert report["gradebook"]["last_load"] is None
    assert report["gradebook"]["rows"]["student"] == 0
    assert report["predictions"] is None
    assert report["jobs"]["last_runs"]["train_traditional_models"] is None
    assert report["jobs"]["daemon_alive"] is False
    assert report["champions"] == {}
    assert report["services"]["postgresql"] == "elsewhere"


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
    gradebook = status()["gradebook"]
    assert gradebook["rows"]["course"] == 2
    assert gradebook["last_load"]["source"] == "csv"
    shown = CliRunner().invoke(command).stdout
    assert "Last load: csv" in shown and "course" in shown


@pytest.mark.usefixtures("installation")
def test_a_database_that_does_not_answer_is_said_and_not_raised(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRADE_ML_DATABASE_URL", "postgresql://nobody:secret@127.0.0.1:1/none")
    report = status()
    assert "does not answer" in report["gradebook"]["error"]
    assert "secret" not in json.dumps(report)
    assert "cannot be read" in CliRunner().invoke(command).stdout


#: What cannot be told while that service is down.
SECTIONS = {
    "GRADE_ML_DATABASE_URL": {"gradebook", "predictions"},
    "DAGSTER_POSTGRES_URL": {"jobs"},
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
    """Listen on a port, do with each connection what is asked, and return the place."""
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


POSTGRESQL = "postgresql://user:hunter2@{place}/db?password=hunter2"
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
@pytest.mark.slow
@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize(
    ("variable", "url", "behaviour"),
    [
        *((variable, POSTGRESQL, silent) for variable in SECTIONS),
        ("GRADE_ML_DATABASE_URL", POSTGRESQL, rude),
        ("DAGSTER_POSTGRES_URL", POSTGRESQL, None),
        ("MLFLOW_TRACKING_URI", HTTP, silent),
        ("MLFLOW_TRACKING_URI", HTTP, half_well),
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
    sections = ("gradebook", "predictions", "jobs", "champions")
    errors = {name: report[name]["error"] for name in sections if "error" in (report[name] or {})}
    assert set(errors) == SECTIONS[variable], errors
    assert "hunter2" not in json.dumps(report)


@pytest.mark.security
@pytest.mark.slow
@pytest.mark.usefixtures("forgetful")
def test_status_ends_though_nothing_answers(tmp_path: Path, listen: Callable[..., str]):
    """Also the process ends, whatever still waits in it."""
    place = listen(half_well)
    variables = dict.fromkeys(SECTIONS, POSTGRESQL) | {"MLFLOW_TRACKING_URI": HTTP}
    installation = Installation(
        tmp_path, **{name: url.format(place=place) for name, url in variables.items()}
    )
    ran = installation.command("status")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("cannot be read") == 4
    assert "no answer within" in " ".join(ran.stdout.split())
    assert "hunter2" not in ran.stdout + ran.stderr
