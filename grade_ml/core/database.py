"""PostgreSQL: the three databases, migrations, and fast typed row transfer.

The packages that own the tables define them; this module knows none of them. `embedded_postgres`
starts and stops the embedded server.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from sqlalchemy import Connection, Engine, Select, Table, create_engine, make_url, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import ArgumentError, OperationalError

from grade_ml.core.errors import ConfigurationError, GradeMLError, UnavailableError
from grade_ml.core.locks import DatabaseLock
from grade_ml.core.permissions import keep_private
from grade_ml.core.settings import URLS
from grade_ml.core.types import arrow_types

if TYPE_CHECKING:
    import pandas as pd

    from grade_ml.core.settings import Settings

DATABASES = ("grade_ml", "dagster", "mlflow")
#: A server in this network answers within milliseconds. Without a limit, a client would wait for
#: ever for a server that accepts a connection and then sends nothing.
CONNECT_SECONDS = 5


@dataclass(frozen=True)
class DatabaseUrls:
    """The SQLAlchemy URLs of the three databases, each with its driver written out."""

    grade_ml: str
    dagster: str
    mlflow: str


def start(settings: Settings) -> DatabaseUrls:
    """Return URLs that answer; hold the embedded server for this process if it is needed.

    The embedded server stops with the last process that holds it. Calling this again is cheap, and
    starts the server again if it died. Databases that do not exist yet on it are created, empty.

    What is on disk is closed to other users of the machine, if it is not.

    Raises
    ------
    ConfigurationError
        The embedded server is needed and cannot be reached or made; the variable is named.
    ServiceError
        It does not start; its log is named.
    """
    keep_private(settings)
    given = (settings.database_url, settings.dagster_postgres_url, settings.mlflow_tracking_uri)
    embedded = dict.fromkeys(DATABASES, "")
    if settings.embedded:
        from grade_ml.core import embedded_postgres

        _require_plain_client()
        server = embedded_postgres.hold(settings.postgres_dir)
        embedded = {name: _url(server, name) for name in DATABASES}
        _create_missing(_url(server, "postgres"))
    grade_ml, dagster, mlflow = (
        url or embedded[name] for name, url in zip(DATABASES, given, strict=True)
    )
    return DatabaseUrls(
        grade_ml=with_driver(grade_ml, "psycopg"),
        # Dagster writes NOTIFY with a parameter, which the server refuses from psycopg 3.
        dagster=with_driver(dagster, "psycopg2"),
        mlflow=with_driver(mlflow, "psycopg"),
    )


def with_driver(url: str, driver: str) -> str:
    """Return `url` with `driver` in place of its own driver if it is a URL of PostgreSQL.

    Connecting by this URL takes at most `CONNECT_SECONDS`, unless the URL sets another limit.

    >>> with_driver("postgres://u:p/w@host/db", "psycopg")
    'postgresql+psycopg://u:p%2Fw@host/db?connect_timeout=5'

    Raises
    ------
    ConfigurationError
        It cannot be read.
    """
    if url.partition("://")[0].partition("+")[0] not in ("postgresql", "postgres"):
        return url
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigurationError(
            f"The URL of a database cannot be read: {url}.", f"Correct it in {', '.join(URLS)}."
        ) from error
    limit = {"connect_timeout": str(CONNECT_SECONDS)}
    return (
        parsed.set(drivername=f"postgresql+{driver}")
        .update_query_dict(limit | dict(parsed.query))
        .render_as_string(hide_password=False)
    )


def _require_plain_client() -> None:
    """Refuse the variables of PostgreSQL's client that no URL can override."""
    for name in ("PGSERVICE", "PGHOSTADDR", "PGTZ", "PGDATESTYLE"):
        if os.environ.get(name):
            raise ConfigurationError(
                f"The variable {name} is set; it would change every connection to the embedded "
                "PostgreSQL.",
                f"Unset {name}, or name the databases that are meant in {', '.join(URLS)}.",
            )


def _url(socket_directory: Path, name: str) -> str:
    """Return a URL that states all that a PG… variable could override."""
    from grade_ml.core.embedded_postgres import PORT

    spoken = {
        "host": str(socket_directory),
        "port": PORT,
        "client_encoding": "utf8",
        "gssencmode": "disable",
        "channel_binding": "disable",
        "target_session_attrs": "any",
        "options": "-c timezone=UTC",
    }
    return f"postgresql://postgres@/{name}?{urlencode(spoken, quote_via=quote)}"


@cache
def _create_missing(url: str) -> None:
    engine = create_engine(with_driver(url, "psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        # Two processes may start at once; the lock makes create-if-missing safe between them.
        DatabaseLock.DATABASES.wait_connected(connection)
        existing = set(connection.execute(text("select datname from pg_database")).scalars())
        for name in DATABASES:
            if name not in existing:
                connection.execute(text(f'create database "{name}"'))
    engine.dispose()


def connect(url: str) -> Engine:
    """Return an engine for `url` that notices dropped connections and uses UTC."""
    return create_engine(
        url,
        pool_size=2,
        max_overflow=8,
        pool_pre_ping=True,
        # Errors go to logs and to Dagster's events; the parameters of a statement are records.
        hide_parameters=True,
        connect_args={"options": "-c timezone=UTC"},
    )


def migrated(url: str) -> Engine:
    """Return an engine on the `grade_ml` database of `url`, whose tables are up to date.

    Raises
    ------
    UnavailableError
        The database does not answer.
    """
    engine = connect(url)
    migrate(engine)
    return engine


def migrate(engine: Engine) -> None:
    """Bring the `grade_ml` database to the newest schema and views; safe to call twice at once.

    Raises
    ------
    UnavailableError
        The database does not answer.
    """
    from grade_ml.core import views

    with reachable(engine) as connection:
        DatabaseLock.MIGRATION.wait(connection)
        # Alembic's import takes half of the time in which `grade-ml predict` is to answer.
        if _revision(connection) != newest_revision():
            _upgrade(connection)
        views.renew(connection)


_MIGRATIONS = Path(__file__).parent / "migrations"


def newest_revision() -> str:
    """Return the newest revision of our tables, with which the name of its file begins."""
    return max(path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def _revision(connection: Connection) -> str | None:
    """Return the revision of the tables, `None` if there are none yet."""
    if connection.execute(text("select to_regclass('alembic_version')")).scalar() is None:
        return None
    revision: str | None = connection.execute(
        text("select version_num from alembic_version")
    ).scalar()
    return revision


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextmanager
def reachable(engine: Engine) -> Iterator[Connection]:
    """Open one transaction; raise `UnavailableError` where the database is, or goes, away."""
    place = engine.url.render_as_string(hide_password=True)
    try:
        connection = engine.connect()
    except OperationalError as error:
        reason = " ".join(str(error.orig).split()).rstrip(".")
        raise UnavailableError(
            f"The database {place} does not answer: {reason}.",
            f"Start it, or correct its URL ({', '.join(URLS)}).",
        ) from error
    try:
        with connection, connection.begin(), _usable_or_closed(connection):
            yield connection
    except GradeMLError:
        raise
    except Exception as error:
        if not is_lost(error):
            raise
        raise UnavailableError(
            f"The database {place} went away: {error}.", "Try again when it is back."
        ) from error


@contextmanager
def _usable_or_closed(connection: Connection) -> Iterator[None]:
    """Close the connection of a statement that was interrupted, for it answers no ROLLBACK.

    psycopg cancels a statement at Ctrl-C only; Dagster's interruption is another exception.
    """
    try:
        yield
    except BaseException as error:  # raised again below, of whatever kind it is
        if not isinstance(error, Exception):
            connection.invalidate()
        raise


def is_lost(error: BaseException | None) -> bool:
    """Return whether `error` comes from a connection to PostgreSQL that broke or was not made."""
    import psycopg
    import psycopg2

    broken = (
        psycopg.OperationalError,
        psycopg.InterfaceError,
        psycopg2.OperationalError,
        psycopg2.InterfaceError,
    )
    while error is not None:
        if isinstance(error, broken):
            code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
            return code is None or code.startswith(("08", "57P"))
        error = error.__cause__ or error.__context__
    return False


def require_answer(url: str) -> None:
    """Connect once.

    Raises
    ------
    UnavailableError
        The database does not answer.
    """
    engine = connect(url)
    with reachable(engine):
        pass
    engine.dispose()


@contextmanager
def only_one(engine: Engine, lock: DatabaseLock) -> Iterator[bool]:
    """Yield whether this process alone holds the lock, until the block ends.

    The lock belongs to a connection of its own, so the death of the process frees it.
    """
    with reachable(engine):
        pass
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        held = lock.take_connected(connection)
        try:
            yield held
        finally:
            # Closing the connection unlocks; in the pool it would retain the lock.
            connection.invalidate()


@contextmanager
def place(
    engine: Engine, group: str, places: int, name: str, wait: Callable[[list[str]], None]
) -> Iterator[None]:
    """Hold one of the places of a group until the block ends; the death of the process frees it.

    Parameters
    ----------
    name
        Of who holds it, at most 63 characters.
    wait
        Pauses; called with the names of those that hold the places while there is no other.
    """
    with reachable(engine):
        pass
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        named = text("select set_config('application_name', :name, false)")
        connection.execute(named, {"name": name})
        try:
            while not DatabaseLock.PLACE.take_one_connected(connection, group, places):
                wait(DatabaseLock.PLACE.holders(connection, group, places))
            yield
        finally:
            connection.invalidate()


def read_frame(connection: Connection, query: Select[Any]) -> pd.DataFrame:
    """Return the rows of `query` as a frame, transferred by COPY (about 1 million rows a second).

    Texts, and what `core.types` knows no other type of, come back as `string[pyarrow]`, dates as
    `datetime64[ns]` at midnight, integers with missing values as float64, booleans as bool.
    """
    import pandas as pd
    import pyarrow as pa
    from pyarrow import csv

    types = arrow_types(query)
    sql = query.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})  # type: ignore[no-untyped-call]
    buffer = io.BytesIO()
    driver: Any = connection.connection.driver_connection
    with (
        driver.cursor() as cursor,
        cursor.copy(
            f"copy ({sql}) to stdout with (format csv, header true, force_quote *)"
        ) as rows,
    ):
        for chunk in rows:
            buffer.write(chunk)
    buffer.seek(0)
    table = csv.read_csv(
        buffer,
        convert_options=csv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
        ),
        parse_options=csv.ParseOptions(newlines_in_values=True),
    )
    frame: pd.DataFrame = table.to_pandas(
        types_mapper={pa.string(): pd.StringDtype("pyarrow")}.get, date_as_object=False
    )
    for name, dtype in frame.dtypes.items():
        if dtype.kind == "M":
            frame[name] = frame[name].astype("datetime64[ns]")
    return frame


def upsert_frame(connection: Connection, table: Table, frame: pd.DataFrame) -> None:
    """Write the rows of `frame` by the key of `table`, in the place of those that have it.

    Columns are those of the table; one that the frame lacks has its default in new rows and stays
    as it is in others.
    """
    key = {column.name for column in table.primary_key}
    names = (str(name) for name in frame.columns if name not in key)
    _merge(connection, table, frame, "update set " + _listed(f"{n} = excluded.{n}" for n in names))


def insert_frame(connection: Connection, table: Table, frame: pd.DataFrame) -> None:
    """Write the rows of `frame` whose key `table` does not have; others stay as they were."""
    _merge(connection, table, frame, "nothing")


def _merge(connection: Connection, table: Table, frame: pd.DataFrame, known: str) -> None:
    """Insert the rows of `frame`; do `known` with those whose key is there already."""
    incoming = f"incoming_{table.name}"
    connection.execute(
        text(
            f"create temporary table {incoming} on commit drop as table {table.fullname} "
            "with no data"
        )
    )
    copy_frame(connection, incoming, frame)
    names = _listed(frame.columns)
    key = _listed(column.name for column in table.primary_key)
    connection.execute(
        text(
            f"insert into {table.fullname} ({names}) select {names} from {incoming} "
            f"on conflict ({key}) do {known}"
        )
    )
    connection.execute(text(f"drop table {incoming}"))


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))


def copy_frame(connection: Connection, table: str, frame: pd.DataFrame) -> None:
    """Append `frame` to `table` (qualified name) by COPY; missing values become NULL.

    Strings must not contain NUL. Column names of the frame are columns of the table.
    """
    import pyarrow as pa
    from pyarrow import csv

    buffer = io.BytesIO()
    csv.write_csv(
        # The writer makes NUL bytes of columns whose first chunk is empty, as pandas.concat makes
        # of frames of which the first has no rows.
        pa.Table.from_pandas(frame, preserve_index=False).combine_chunks(),
        buffer,
        csv.WriteOptions(include_header=False, quoting_style="needed"),
    )
    columns = ", ".join(f'"{name}"' for name in frame.columns)
    driver: Any = connection.connection.driver_connection
    with (
        driver.cursor() as cursor,
        cursor.copy(f"copy {table} ({columns}) from stdin with (format csv)") as sink,
    ):
        sink.write(buffer.getbuffer())
