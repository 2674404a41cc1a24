from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine, text

from grade_ml.core import database, embedded_postgres
from grade_ml.core.errors import ConfigurationError, ServiceError
from grade_ml.core.settings import Settings

pytestmark = pytest.mark.slow


class Holder:
    """A process that holds the server under `home`."""

    def __init__(self, home: Path, **variables: str) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "XDG_RUNTIME_DIR"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "grade_ml_tests.core.holder"],
            env={**environment, "GRADE_ML_HOME": str(home), **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def url(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip() or self.process.communicate()[1]

    def finish(self) -> str:
        return self.process.communicate()[1]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    postmaster = server_process(tmp_path)
    if postmaster:
        postmaster.terminate()
        postmaster.wait(30)


def kill(*processes: psutil.Process) -> None:
    """Kill them all; a child of the server may end by itself meanwhile."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def server_process(home: Path) -> psutil.Process | None:
    postmaster = embedded_postgres._postmaster((home / "postgres").resolve())
    return postmaster and postmaster[0]


def write(url: str, number: int) -> None:
    with create_engine(url).begin() as connection:
        connection.execute(text("create table if not exists kept (number int)"))
        connection.execute(text("insert into kept values (:number)"), {"number": number})


def read(url: str) -> list[int]:
    with create_engine(url).connect() as connection:
        return list(connection.execute(text("select number from kept order by number")).scalars())


def test_the_server_stops_with_the_last_holder_and_nothing_is_on_stderr(home: Path):
    first, second = Holder(home), Holder(home)
    url = first.url()
    assert second.url() == url
    write(url, 1)
    assert first.finish() == ""
    assert read(url) == [1]
    assert second.finish() == ""
    assert server_process(home) is None


def test_a_killed_holder_leaves_no_trace(home: Path):
    killed = Holder(home)
    write(killed.url(), 1)
    killed.kill()
    following = Holder(home)
    assert read(following.url()) == [1]
    following.finish()
    assert server_process(home) is None


def test_a_killed_server_is_started_by_the_next_holder(home: Path):
    holder = Holder(home)
    write(holder.url(), 1)
    killed = server_process(home)
    assert killed
    killed.kill()
    following = Holder(home)
    assert read(following.url()) == [1]
    following.finish()
    assert holder.finish() == ""
    assert server_process(home) is None


def test_everything_killed_at_once(home: Path):
    holder = Holder(home)
    write(holder.url(), 1)
    postmaster = server_process(home)
    assert postmaster
    kill(*postmaster.children(), postmaster, psutil.Process(holder.process.pid))
    holder.finish()
    following = Holder(home)
    assert read(following.url()) == [1]
    following.finish()


def test_the_process_id_of_a_killed_server_may_belong_to_another_program(home: Path):
    holder = Holder(home)
    write(holder.url(), 1)
    postmaster = server_process(home)
    assert postmaster
    file = home / "postgres" / "postmaster.pid"
    left = file.read_text()
    kill(*postmaster.children(), postmaster)
    holder.finish()
    file.write_text(left.replace(str(postmaster.pid), str(os.getpid()), 1))
    following = Holder(home)
    assert read(following.url()) == [1]
    following.finish()


@pytest.mark.parametrize("left", ["", "12", "99999999\n/somewhere\n"])
def test_a_half_written_process_id_file(home: Path, left: str):
    Holder(home).finish()
    (home / "postgres" / "postmaster.pid").write_text(left)
    following = Holder(home)
    write(following.url(), 1)
    following.finish()


def test_a_cluster_that_was_never_finished_is_made_again(home: Path):
    draft = home / "postgres.new"
    draft.mkdir()
    (draft / "PG_VERSION").write_text("18\n")
    holder = Holder(home)
    write(holder.url(), 1)
    holder.finish()
    assert not draft.exists()


def test_ctrl_c_reaches_the_holder_but_not_the_server(home: Path):
    interrupted, other = Holder(home), Holder(home)
    url = other.url()
    write(url, 1)
    interrupted.url()
    os.killpg(interrupted.process.pid, signal.SIGINT)
    interrupted.finish()
    assert read(url) == [1]
    other.finish()
    assert server_process(home) is None


def test_many_processes_start_at_once(home: Path):
    holders = [Holder(home) for _ in range(4)]
    assert len({holder.url() for holder in holders}) == 1
    assert [holder.finish() for holder in holders] == [""] * 4
    assert server_process(home) is None


@pytest.mark.parametrize(
    "name",
    [
        "a folder, 100% ü & more",
        "$HOME `id` \"b\" 'c' \\ $(d) ;",
        "😀 #x ?y=z&w a::b ~ {e} [f]* %41",
        "x" * 120,
        "/".join("y" * 200 for _ in range(4)),
    ],
)
def test_a_home_where_no_socket_can_lie(home: Path, name: str):
    holder = Holder(home / name)
    write(holder.url(), 1)
    holder.finish()
    holder = Holder(home / name)
    assert read(holder.url()) == [1]
    holder.finish()


def test_a_folder_of_something_else_is_left_alone(home: Path):
    (home / "postgres").mkdir()
    (home / "postgres" / "letter.txt").write_text("mine")
    message = Holder(home).url()
    assert "holds no PostgreSQL cluster" in message
    assert (home / "postgres" / "letter.txt").read_text() == "mine"


def test_nothing_is_started_where_all_urls_are_given(home: Path):
    url = "postgresql://somebody@127.0.0.1:1/nothing"
    names = ("GRADE_ML_DATABASE_URL", "DAGSTER_POSTGRES_URL", "MLFLOW_TRACKING_URI")
    holder = Holder(home, **dict.fromkeys(names, url))
    assert holder.url() == "postgresql+psycopg://somebody@127.0.0.1:1/nothing?connect_timeout=5"
    holder.finish()
    assert not (home / "postgres").exists()


def test_the_callers_locale_time_zone_and_variables_of_postgresql_do_not_matter(home: Path):
    odd = {
        "LC_ALL": "de_AT.nowhere",
        "LANG": "C.utf-16",
        "TZ": "Nowhere/Never",
        "PGDATA": "/nowhere",
        "PGHOST": "database.example.org",
        "PGPORT": "6000",
        "PGUSER": "somebody",
        "PGDATABASE": "something",
        "PGPASSWORD": "secret",
        "PGOPTIONS": "-c search_path=elsewhere",
        "PGSSLMODE": "verify-full",
        "PGGSSENCMODE": "require",
        "PGCHANNELBINDING": "require",
        "PGCLIENTENCODING": "LATIN1",
        "PGTARGETSESSIONATTRS": "standby",
    }
    holder = Holder(home, **odd)
    url = holder.url()
    write(url, 1)
    with create_engine(url).connect() as connection:
        encoding, collation = connection.execute(
            text(
                "select pg_encoding_to_char(encoding), datcollate from pg_database "
                "where datname = current_database()"
            )
        ).one()
        zone = connection.execute(text("show log_timezone")).scalar()
    assert (encoding, collation, zone) == ("UTF8", "C", "UTC")
    assert holder.finish() == ""
    plain = Holder(home)
    assert read(plain.url()) == [1]
    plain.finish()


@pytest.mark.parametrize("name", ["PGSERVICE", "PGHOSTADDR", "PGTZ", "PGDATESTYLE"])
def test_a_variable_that_no_url_overrides_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setenv(name, "x")
    with pytest.raises(ConfigurationError, match=name):
        database.start(Settings(_env_file=None, home=home))
    assert not (home / "postgres").exists()


def test_the_output_of_initdb_is_in_the_error(home: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ServiceError, match=r"(?s)could not make its cluster.*child process"):
            embedded_postgres.hold(home / "postgres")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (home / "postgres").exists()


def test_the_output_of_the_server_is_in_the_error(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedded_postgres, "_RETRY_SECONDS", 0)
    Holder(home).finish()
    with (home / "postgres" / "postgresql.conf").open("a") as file:
        file.write("no_such_parameter = 1\n")
    with pytest.raises(ServiceError, match=r'(?s)did not start.*"no_such_parameter"'):
        embedded_postgres.hold(home / "postgres")


@pytest.mark.parametrize(
    "place", ["file/home", "file", "/proc/home", "/sys/kernel", "n" * 300, "p" * 200 + "/q" * 400]
)
def test_a_home_that_cannot_be_written_is_named(home: Path, place: str):
    (home / "file").write_text("")
    with pytest.raises(ConfigurationError, match="GRADE_ML_HOME"):
        database.start(Settings(_env_file=None, home=home / place))


def test_a_file_where_the_cluster_should_be(home: Path, monkeypatch: pytest.MonkeyPatch):
    (home / "postgres").write_text("mine")
    with pytest.raises(ServiceError, match="holds no PostgreSQL cluster"):
        embedded_postgres.hold(home / "postgres")
    assert (home / "postgres").read_text() == "mine"
