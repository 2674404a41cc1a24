"""Dagster's own tables: in PostgreSQL at DAGSTER_POSTGRES_URL or on the embedded server.

Named in dagster.yaml, so that every Dagster process (webserver, daemon, code server, run, a bare
`dagster dev`) finds the server by itself and holds it for as long as it lives. The URL is read
in each process and so is in no command line and in no instance reference. Being in every
Dagster process, also one that somebody starts by hand, it is where such a process is kept apart.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import psycopg2
from dagster._grpc import server_watcher
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from sqlalchemy import Engine, create_engine, event
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from grade_ml.core import database
from grade_ml.core.errors import ServiceError
from grade_ml.core.process import keep_apart
from grade_ml.core.settings import Settings
from grade_ml.orchestration.configurable import WithoutOptions

#: UI and daemon ask the code server each second whether it is still the same: 1% of a core.
server_watcher.WATCH_INTERVAL = 5


class GradeMLStorage(WithoutOptions, DagsterPostgresStorage):
    """Run, event log and schedule storage on the `dagster` database of the settings."""

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> GradeMLStorage:
        """Return the storage; the embedded server is started if it is needed."""
        keep_apart()
        url = database.start(Settings.from_environment()).dagster
        storage = cls(url, should_autocreate_tables=url not in _engines, inst_data=inst_data)
        runs: Any = storage.run_storage
        events: Any = storage.event_log_storage
        schedules: Any = storage.schedule_storage
        runs._engine = events._engine = schedules._engine = _engines.setdefault(url, _pooled(url))
        # It would read the names of all tables before each of its statements; this one is there.
        schedules._has_instigators_table = lambda _: True
        return storage


#: Of this process, by URL. The code server opens the storage for every tick of a sensor, and each
#: statement would have a connection of its own: at rest, that was 6% of a core.
_engines: dict[str, Engine] = {}


#: So long a process waits for a database that it has reached before; Dagster tries six times.
_PATIENCE_SECONDS = 30


def _pooled(url: str) -> Engine:
    engine = create_engine(
        url, isolation_level="AUTOCOMMIT", pool_size=2, max_overflow=-1, pool_pre_ping=True
    )
    reached = threading.Event()

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _: Any, arguments: Any, parameters: Any) -> Any:
        for attempt in Retrying(
            stop=stop_after_delay(_PATIENCE_SECONDS if reached.is_set() else 0),
            wait=wait_fixed(1),
            retry=retry_if_exception_type((psycopg2.OperationalError, ServiceError)),
            reraise=True,
        ):
            with attempt:
                if attempt.retry_state.attempt_number > 1:
                    # Where no `up` does so, it starts an embedded server that died.
                    database.start(Settings.from_environment())
                connection = dialect.connect(*arguments, **parameters)
        reached.set()
        return connection

    return engine
