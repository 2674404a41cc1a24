"""Fixtures of every package's tests: a real PostgreSQL and settings that point nowhere else."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from alembic import command
from alembic.config import Config
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from grade_ml.core import database, embedded_postgres, masking
from grade_ml.core.settings import Settings
from grade_ml.ensemble.baseline import BaselineModel
from grade_ml_tests.factories import SECRET

if TYPE_CHECKING:
    from grade_ml_tests.experiments.lab import Lab

_numbers = itertools.count()

# The same examples in every run; a failure that only chance repeats helps no developer.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

#: Kept where a run failed, so that its files can be looked at.
_folders: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    """Give every run a folder of its own, and its children the package of the tests.

    Runs of the superuser share one by default and close it to other users when they start, among
    them the one whom the PostgreSQL of another run works as.
    """
    # Children import nothing from the current folder once `process.keep_apart` has been called.
    os.environ["PYTHONPATH"] = str(config.rootpath)
    if config.option.basetemp is None:
        config.option.basetemp = tempfile.mkdtemp(prefix="grade_ml_tests_")
        _folders.append(config.option.basetemp)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Let `-n auto` start one worker more than there are cores, four at most.

    Tests wait for processes, servers and pauses a quarter of their time: on two cores, the slow
    ones took 1,151 s of 1,671 s of CPU with two workers.
    """
    return min(4, (os.cpu_count() or 1) + 1)


#: Files that take minutes, the longest first.
LONG = (
    *("orchestration/test_optional.py", "orchestration/test_training.py"),
    *("orchestration/test_lineage.py", "cli/test_up.py", "cli/test_status.py"),
    *("cli/test_lost_database.py", "cli/test_conditions.py", "training/test_trajectory.py"),
    "cli/test_neighbours.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: a worker that begins a long file last keeps others waiting.

    xdist would begin with the files of many tests (`--no-loadscope-reorder` keeps it from that),
    and end with these.
    """
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_sessionfinish(exitstatus: int) -> None:
    """Remove the folder of a run without failures."""
    if exitstatus == pytest.ExitCode.OK:
        for folder in _folders:
            shutil.rmtree(folder, ignore_errors=True)


#: Stands in every password that tests make up, in each part of it.
MARK = "Wx7"


def passwords() -> st.SearchStrategy[str]:
    """Draw passwords with what is special in addresses, quotes and JSON."""
    letters = st.sampled_from("@/#?:%&=+;,' \"\\[]{}~^|<>-.äß€ab1")
    return st.lists(st.text(letters, max_size=4), min_size=1, max_size=3).map(
        lambda parts: MARK + "".join(part + MARK for part in parts)
    )


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """Secrets of this test are not hidden in others."""
    before = set(masking._known)
    yield
    masking._known.intersection_update(before)


@pytest.fixture(scope="session")
def baseline_of_small(tmp_path_factory: pytest.TempPathFactory) -> BaselineModel:
    """A baseline fitted on the small campus, once in a run of however many workers."""
    from grade_ml_tests.ensemble.campus import fitted_once

    folder = tmp_path_factory.getbasetemp()
    return fitted_once(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)


#: The tables of grade_ml, to be copied: PostgreSQL copies no database that anyone is connected to.
TABLES = "grade_ml_tables"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[database.DatabaseUrls]:
    """One embedded PostgreSQL for the whole run, its `grade_ml` database migrated."""
    installation = Settings(_env_file=None, home=tmp_path_factory.mktemp("home"))
    urls = database.start(installation)
    admin = create_engine(urls.dagster, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        # Making and dropping a database per test waits for the disk otherwise.
        connection.execute(text("alter system set fsync = off"))
        connection.execute(text("select pg_reload_conf()"))
    engine = database.connect(urls.grade_ml)
    database.migrate(engine)
    engine.dispose()
    with admin.connect() as connection:
        copy = f"create database {TABLES} template grade_ml allow_connections false"
        connection.execute(text(copy))
    admin.dispose()
    yield urls
    embedded_postgres.release(installation.postgres_dir)


@contextmanager
def new_database(server: database.DatabaseUrls, name: str, template: str) -> Iterator[str]:
    """Yield the URL of a database that is gone afterwards."""
    admin = create_engine(server.dagster, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f'create database "{name}" template {template} strategy file_copy'))
        yield server.grade_ml.replace("/grade_ml?", f"/{name}?")
        connection.execute(text(f'drop database "{name}" with (force)'))
    admin.dispose()


class Shared:
    """A database of this process for one test after the other: empty for each, its tables there.

    Making one takes a fifth of a second, and MLflow and Dagster would make their tables again.
    """

    #: Rows of these are there before the first test.
    KEPT = ("alembic_version", "secondary_indexes", "instance_info")

    def __init__(self, server: database.DatabaseUrls, name: str, template: str) -> None:
        self._name, self._template = name, template
        self._admin = create_engine(server.dagster, isolation_level="AUTOCOMMIT")
        self.url = server.grade_ml.replace("/grade_ml?", f"/{name}?")
        # No pool: a connection that stays would be in the way of dropping the database.
        self._engine = create_engine(
            self.url, poolclass=NullPool, connect_args={"options": "-c lock_timeout=5s"}
        )
        self._schema: str | None
        self._make()

    def _make(self) -> None:
        with self._admin.connect() as connection:
            connection.execute(text(f'drop database if exists "{self._name}" with (force)'))
            connection.execute(
                text(f'create database "{self._name}" template {self._template} strategy file_copy')
            )
        with self._engine.connect() as connection:
            self._schema = connection.execute(text(_SCHEMA)).scalar()

    def empty(self) -> None:
        """Remove all rows; a database whose tables changed is made again.

        Without tables before, it keeps those that MLflow or Dagster made.
        """
        try:
            with self._engine.begin() as connection:
                unchanged = self._emptied(connection)
        except OperationalError:  # a process that the test left behind holds a lock
            unchanged = False
        if not unchanged:
            self._make()

    def _emptied(self, connection: Connection) -> bool:
        schema = connection.execute(text(_SCHEMA)).scalar()
        if self._template != "template1" and schema != self._schema:
            return False
        tables = [
            name
            for name, table in connection.execute(text(_TABLES)).all()
            if table not in self.KEPT
        ]
        if tables:
            filled = " union all ".join(
                f"(select '{name}' where exists (select from {name}))" for name in tables
            )
            connection.execute(text("set local session_replication_role = replica"))
            for name in connection.execute(text(filled)).scalars().all():
                # MLflow makes its experiment 0 together with its tables.
                rest = " where experiment_id <> 0" if name == "public.experiments" else ""
                connection.execute(text(f"delete from {name}{rest}"))
        connection.execute(text(_RESTART))
        return True


_TABLES = """
select format('%I.%I', schemaname, tablename), tablename from pg_tables
where schemaname not in ('pg_catalog', 'information_schema')
"""
_SCHEMA = """
select md5(string_agg(line, ',' order by line)) from (
  select concat_ws(' ', attrelid::regclass, attname, atttypid, attnotnull) as line from pg_attribute
  where attrelid >= 16384 and attnum > 0
  union all
  select concat_ws(' ', oid, conname) from pg_constraint where conrelid >= 16384
) as lines
"""
_RESTART = """
select setval(format('%I.%I', schemaname, sequencename), start_value, false) from pg_sequences
where last_value is not null
"""


@pytest.fixture(scope="session")
def shared(server: database.DatabaseUrls) -> Callable[[str], Shared]:
    """Return the shared database of a name; its template is that of the same name, if there is."""

    @cache
    def of(name: str) -> Shared:
        return Shared(server, f"{name}_shared", TABLES if name == "grade_ml" else "template1")

    return of


@contextmanager
def database_of(server: database.DatabaseUrls, revision: str) -> Iterator[Engine]:
    """Yield an engine on a database as an earlier version, of the migration `revision`, left it."""
    with new_database(server, f"grade_ml_of_{revision}_{next(_numbers)}", "template1") as url:
        engine = database.connect(url)
        migrations = Config()
        folder = Path(database.__file__).parent / "migrations"
        migrations.set_main_option("script_location", str(folder))
        with engine.begin() as connection:
            migrations.attributes["connection"] = connection
            command.upgrade(migrations, revision)
        yield engine
        engine.dispose()


@pytest.fixture
def gradebook_url(shared: Callable[[str], Shared]) -> Iterator[str]:
    """An empty, migrated `grade_ml` database."""
    test_database = shared("grade_ml")
    yield test_database.url
    test_database.empty()


@contextmanager
def installation(
    server: database.DatabaseUrls, gradebook_url: str, folder: Path
) -> Iterator[Settings]:
    """Yield settings of a fresh installation: empty storage and registry beside the gradebook."""
    number = next(_numbers)
    with (
        new_database(server, f"dagster_{number}", "template1") as dagster,
        new_database(server, f"mlflow_{number}", "template1") as mlflow,
    ):
        yield settings_of(folder, gradebook_url, dagster, mlflow)


def settings_of(folder: Path, gradebook: str, dagster: str, mlflow: str) -> Settings:
    """Return settings that have all files in `folder` and these databases."""
    return Settings(
        _env_file=None,
        home=folder / "home",
        database_url=gradebook,
        dagster_postgres_url=dagster,
        mlflow_tracking_uri=mlflow,
        storage=str(folder / "storage"),
        dagster_home=folder / "dagster",
        tuning_seconds=0,
        secret=SECRET,
    )


@pytest.fixture(scope="session")
def home(
    server: database.DatabaseUrls, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """An installation for tests of versions and stages, each with models of its own.

    The tables of MLflow take seconds to make.
    """
    folder = tmp_path_factory.mktemp("stages")
    with (
        new_database(server, "grade_ml_stages", TABLES) as url,
        installation(server, url, folder) as settings,
    ):
        yield settings


@pytest.fixture(scope="session")
def installed(home: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The same installation, with a gradebook of one running section."""
    from grade_ml_tests.experiments.lab import Lab, fill
    from grade_ml_tests.registry.versions import stages_of

    stages = stages_of(home)
    with stages.engine.begin() as connection:
        fill(connection)
    yield Lab(stages, tmp_path_factory.mktemp("versions"), settings=home)
    stages.engine.dispose()


@pytest.fixture
def lab(installed: Lab) -> Iterator[Lab]:
    """That installation without experiments, on the first day of their plans."""
    from grade_ml_tests.experiments.plans import STARTS_ON

    installed.as_of = STARTS_ON
    yield installed
    installed.reset()


@pytest.fixture
def settings(
    shared: Callable[[str], Shared], gradebook_url: str, tmp_path: Path
) -> Iterator[Settings]:
    """Settings of a fresh installation: empty migrated database, empty storage and registry."""
    dagster, mlflow = shared("dagster"), shared("mlflow")
    yield settings_of(tmp_path, gradebook_url, dagster.url, mlflow.url)
    dagster.empty()
    mlflow.empty()


@pytest.fixture
def engine(gradebook_url: str) -> Iterator[Engine]:
    """An engine on an empty, migrated `grade_ml` database, that of `settings`."""
    engine = database.connect(gradebook_url)
    yield engine
    engine.dispose()


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    """The variables that give a process these `settings`."""
    return as_environment(settings)


def as_environment(settings: Settings) -> dict[str, str]:
    """Return the variables that give a process the stores of `settings`."""
    return {
        "GRADE_ML_HOME": str(settings.home),
        "GRADE_ML_DATABASE_URL": str(settings.database_url),
        "DAGSTER_POSTGRES_URL": str(settings.dagster_postgres_url),
        "MLFLOW_TRACKING_URI": str(settings.mlflow_tracking_uri),
        "GRADE_ML_STORAGE": str(settings.storage),
        "DAGSTER_HOME": str(settings.dagster_home),
        "GRADE_ML_SECRET": SECRET,
    }
