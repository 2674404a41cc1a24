from __future__ import annotations

import os
import signal
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import packages_distributions
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from grade_ml.cli.up import answers, command, remember_dagster_home
from grade_ml.core.errors import ConfigurationError
from grade_ml_tests.launch import Installation, wait_until

HOME = Path("/some where/dagster")


@pytest.mark.parametrize("before", [None, "", "A=1\n", "A=1", "# DAGSTER_HOME=/x\n"])
def test_dagster_home_is_added_to_dotenv_once(tmp_path: Path, before: str | None):
    from dotenv import dotenv_values

    file = tmp_path / ".env"
    if before is not None:
        file.write_text(before)
    remember_dagster_home(file, HOME)
    once = file.read_text()
    assert once.startswith(before or "")
    assert dotenv_values(file)["DAGSTER_HOME"] == str(HOME)
    remember_dagster_home(file, HOME)
    assert file.read_text() == once


def test_a_dagster_home_in_dotenv_stays(tmp_path: Path):
    file = tmp_path / ".env"
    file.write_text("export DAGSTER_HOME=/mine\n")
    remember_dagster_home(file, HOME)
    assert file.read_text() == "export DAGSTER_HOME=/mine\n"


def test_a_port_in_use_is_reported_before_anything_starts(tmp_path: Path):
    installation = Installation(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = installation.command("up", "--port", str(port))
    assert ran.returncode == 1
    assert f"Port {port} cannot be used" in ran.stderr
    assert f"--port {port + 1}" in ran.stderr
    assert not (tmp_path / "postgres").exists()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GRADE_ML_AS_OF", "yesterday"),
        ("GRADE_ML_DATABASE_URL", "nonsense"),
        ("GRADE_ML_RUN_HOURS", '{"train": 1}'),
        ("GRADE_ML_RETENTION_RUNS_DAYS", "many"),
        ("GRADE_ML_ONEROSTER_URL", "nonsense"),
        ("GRADE_ML_ALERT_SECONDS", "often"),
        ("GRADE_ML_EXTERNAL_LATITUDE", "north"),
        ("GRADE_ML_INSTITUTION", "/nowhere.toml"),
        ("GRADE_ML_UI_TOKEN", "short"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
):
    monkeypatch.setenv("GRADE_ML_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(variable, value)
    error = CliRunner().invoke(command, ["--demo"]).exception
    assert isinstance(error, ConfigurationError)
    assert variable in f"{error.message} {error.remedy}"
    assert not (tmp_path / "home").exists()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one installation after the other: its databases are made once."""
    return tmp_path_factory.mktemp("up")


@pytest.fixture
def running(home: Path) -> Iterator[Installation]:
    installation = Installation(home)
    installation.up()
    yield installation
    installation.stop()
    wait_until(lambda: installation.postgres() is None, "the end of PostgreSQL")


def assert_ends_everything(installation: Installation, number: signal.Signals) -> None:
    names = ("webserver", "daemon", "code_server")
    processes = [*(installation.child(name) for name in names), *code_servers(installation)]
    assert installation.signal(number) == 0
    assert installation.output.endswith("Stopped.\n")
    assert not any(psutil.pid_exists(process) for process in processes)
    assert installation.postgres() is None


def remember(installation: Installation) -> None:
    """Commit a row."""
    folder = installation.home / "csv"
    folder.mkdir()
    tables = {
        "students": "student_id\ns",
        "terms": "term_id,starts_on,ends_on\nt,2024-09-01,2024-12-20",
        "courses": "course_id\nc",
        "sections": "section_id,course_id,term_id,starts_on,ends_on\nc1,c,t,2024-09-01,2024-12-20",
        "enrollments": "section_id,student_id,enrolled_on,withdrawn_on,outcome\nc1,s,2024-09-01,,",
        "assignments": "assignment_id,section_id,category,title,due_on,weight,max_score\n"
        "a,c1,TMA,A,2024-10-01,100,100",
        "results": "assignment_id,student_id,score,submitted_on,graded_on,carried_over\n"
        "a,s,80,2024-09-30,2024-10-05,false",
    }
    for name, text in tables.items():
        (folder / f"{name}.csv").write_text(text + "\n")
    loaded = installation.command("load", "csv", str(folder))
    assert loaded.returncode == 0, loaded.stderr


def remembers(installation: Installation) -> bool:
    again = installation.command("load", "csv", str(installation.home / "csv"))
    return "Nothing changed" in again.stdout


TASK = """
from grade_ml import tasks
found = tasks.manage_ab_tests.delay().get(timeout=240)
print(found.status, found.counts["assets"], tasks.result(found.run_ids[0]).status)
"""


@pytest.mark.slow
def test_an_up_does_tasks_and_is_named_to_a_second_and_hanging_up_ends_it(running: Installation):
    assert running.python(TASK).split() == ["SUCCESS", "4", "SUCCESS"]
    second = running.command("up", "--port", str(running.port + 1))
    assert second.returncode == 1
    assert running.url in second.stderr
    assert answers(running.url)
    assert_ends_everything(running, signal.SIGHUP)


def ticks(installation: Installation) -> int:
    """Return how often the sensor that ticks most has ticked, without an error."""
    selector = (
        'repositoryLocationName: "grade_ml", repositoryName: "__repository__", '
        'sensorName: "gradebook_changes"'
    )
    data = installation.graphql(
        f"{{sensorOrError(sensorSelector: {{{selector}}}) {{... on Sensor"
        " {sensorState {ticks(limit: 100) {status}}}}}"
    )
    # While the code server is away, so are its sensors.
    state = data["sensorOrError"].get("sensorState", {"ticks": []})
    return [tick["status"] for tick in state["ticks"]].count("SKIPPED")


def code_servers(installation: Installation) -> list[int]:
    """Return the processes that have loaded the definitions for others."""
    processes = []
    for name in ("webserver", "daemon", "code_server"):
        for process in psutil.Process(installation.child(name)).children(recursive=True):
            with suppress(psutil.Error):  # it has ended meanwhile
                if process.cmdline()[3:5] == ["api", "grpc"]:
                    processes.append(process.pid)
    return processes


def runs(installation: Installation) -> list[psutil.Process]:
    """Return the processes of the runs that the daemon has launched."""
    processes = []
    for process in psutil.Process(installation.child("daemon")).children():
        with suppress(psutil.Error):  # it has ended meanwhile
            if "execute_run" in process.cmdline():
                processes.append(process)
    return processes


@pytest.mark.slow
@pytest.mark.security
def test_ui_and_daemon_share_one_private_code_server_that_reloads_and_ctrl_c_ends_all(
    running: Installation,
):
    (before,) = code_servers(running)
    ticked = ticks(running)
    wait_until(lambda: ticks(running) > ticked, "a tick")
    assert code_servers(running) == [before]
    assert (running.home / "code_server").stat().st_mode & 0o777 == 0o700
    reloaded = running.graphql(
        'mutation {reloadRepositoryLocation(repositoryLocationName: "grade_ml")'
        " {... on WorkspaceLocationEntry {name loadStatus locationOrLoadError {__typename}}}}"
    )["reloadRepositoryLocation"]
    assert reloaded == {
        "name": "grade_ml",
        "loadStatus": "LOADED",
        "locationOrLoadError": {"__typename": "RepositoryLocation"},
    }
    wait_until(lambda: len(code_servers(running)) == 1, "the end of the former code")
    assert code_servers(running) != [before]
    assert_ends_everything(running, signal.SIGINT)


@pytest.mark.security
@pytest.mark.slow
def test_whatever_is_killed_comes_back_and_no_row_is_lost(running: Installation):
    remember(running)
    before = wait_until(lambda: ticks(running), "a tick")
    run, *_ = wait_until(lambda: runs(running), "a run of the daemon")
    run.suspend()
    (worker,) = code_servers(running)
    for name in ("webserver", "daemon", "code_server"):
        killed = running.child(name)
        # The code server's worker ends by itself after the machine was suspended.
        os.kill(worker if name == "code_server" else killed, signal.SIGKILL)
        wait_until(lambda name=name, killed=killed: running.child(name) != killed, name)
        wait_until(lambda: answers(running.url), "the UI")
    # One may have ended just before the kill.
    wait_until(lambda: ticks(running) > before + 1, "ticks of the new code server")
    postgres = running.postgres()
    assert postgres
    postgres.kill()
    wait_until(lambda: "PostgreSQL ended" in running.output, "the restart of PostgreSQL")
    wait_until(lambda: remembers(running), "the row")
    assert running.graphql("{runsOrError {__typename}}") == {"runsOrError": {"__typename": "Runs"}}
    # Last of all `up` itself: the next `up` recovers, and ends on request.
    left = running.child("webserver")
    running.signal(signal.SIGKILL)
    assert run.status() == psutil.STATUS_STOPPED
    run.resume()
    running.up()
    assert not psutil.pid_exists(left)
    assert not run.is_running() or run.status() == psutil.STATUS_ZOMBIE
    assert "was killed" in running.output
    assert remembers(running)
    assert_ends_everything(running, signal.SIGTERM)


@pytest.fixture
def delivery(tmp_path: Path) -> Path:
    """A folder whose `.env` leads elsewhere and whose modules have the names of those there are."""
    folder = tmp_path / "delivery"
    folder.mkdir()
    (folder / ".env").write_text(
        "GRADE_ML_DATABASE_URL=postgresql://203.0.113.1/theirs\n"
        "DAGSTER_POSTGRES_URL=postgresql://203.0.113.1/theirs\n"
        f"GRADE_ML_STORAGE={folder / 'storage'}\n"
    )
    code = f"open({str(tmp_path / 'imported')!r}, 'a').write(__name__)\nraise SystemExit\n"
    for name in {*sys.stdlib_module_names, *packages_distributions(), "grade_ml"}:
        (folder / f"{name}.py").write_text(code)
    return folder


@pytest.mark.slow
@pytest.mark.security
def test_nothing_of_the_current_folder_is_executed_or_read(tmp_path: Path, delivery: Path):
    installation = Installation(tmp_path / "home")
    installation.folder = delivery
    before = sorted(delivery.iterdir())
    loaded = installation.command("load", "simulated", "--students", "20", "--courses", "1")
    assert loaded.returncode == 0, loaded.stderr
    installation.up()
    try:
        # Its sensors work, so the daemon's code server has loaded the definitions.
        wait_until(lambda: has_started_a_run(installation), "a run")
        processes = [
            process
            for name in ("webserver", "daemon", "code_server")
            for process in descendants(installation.child(name))
        ]
        assert len(processes) > 2
        for process in processes:
            assert Path(process.cwd()) == installation.home
            assert process.environ()["PYTHONSAFEPATH"] == "1"
    finally:
        installation.stop()
    assert not (tmp_path / "imported").exists()
    assert sorted(delivery.iterdir()) == before


def descendants(process: int) -> list[psutil.Process]:
    return [psutil.Process(process), *psutil.Process(process).children(recursive=True)]


def has_started_a_run(installation: Installation) -> bool:
    query = urllib.request.Request(
        f"{installation.url}/graphql",
        b'{"query":"{runsOrError{... on Runs{results{status}}}}"}',
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(query) as answer:
        return b"STARTED" in answer.read()
