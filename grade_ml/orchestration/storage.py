"""Dagster's own tables: in PostgreSQL at DAGSTER_POSTGRES_URL or on the embedded server.

Named in dagster.yaml, so that every Dagster process (webserver, daemon, code server, run, a bare
`dagster dev`) finds the server by itself and holds it for as long as it lives. Each process reads
the URL, so that it is in no command line and in no instance reference. As this module is in every
Dagster process, also one that a user starts by hand, it isolates such a process.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import psycopg2
from dagster import DagsterEventType, EventLogEntry
from dagster._grpc import server_watcher
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage
from sqlalchemy import Engine, create_engine, event
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from grade_ml.core import database
from grade_ml.core.errors import ServiceError
from grade_ml.core.process import keep_apart
from grade_ml.core.settings import Settings
from grade_ml.orchestration.configurable import WithoutOptions

#: By default, UI and daemon query the code server each second whether it is the same: 1% of a core.
server_watcher.WATCH_INTERVAL = 5


class GradeMLStorage(WithoutOptions, DagsterPostgresStorage):
    """Run, event log and schedule storage on the `dagster` database of the settings."""

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> GradeMLStorage:
        """Return the storage; start the embedded server if it is needed."""
        keep_apart()
        url = database.start(Settings.from_environment()).dagster
        new = url not in _engines
        storage = cls(url, should_autocreate_tables=new, inst_data=inst_data)
        storage._event_log_storage = _Events(url, should_autocreate_tables=False)
        runs: Any = storage.run_storage
        events: Any = storage.event_log_storage
        schedules: Any = storage.schedule_storage
        runs._engine = events._engine = schedules._engine = _engines.setdefault(url, _pooled(url))
        # It would read the names of all tables before each of its statements; this table exists.
        schedules._has_instigators_table = lambda _: True
        return storage


class _Events(PostgresEventLogStorage):
    """Dagster's events; the last red line of a run's log names the failure and the remedy.

    Dagster ends it with "Error occurred while executing op" and twenty lines of its own code.
    """

    def store_event(self, event: EventLogEntry) -> None:
        """Store an event."""
        if event.dagster_event_type is DagsterEventType.RUN_FAILURE:
            from grade_ml.orchestration.results import with_cause

            failed = self.get_logs_for_run(event.run_id, of_type=DagsterEventType.STEP_FAILURE)
            event = with_cause(event, failed)
        super().store_event(event)


#: Of this process, by URL. The code server opens the storage for every tick of a sensor, and each
#: statement would have a connection of its own: at rest, that was 6% of a core.
_engines: dict[str, Engine] = {}


#: A process waits this long for a database that it has reached before; Dagster tries six times.
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
                    # If no `up` does so, it restarts an embedded server that died.
                    database.start(Settings.from_environment())
                connection = dialect.connect(*arguments, **parameters)
        reached.set()
        return connection

    return engine
