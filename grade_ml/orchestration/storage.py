"""Dagster's own tables: in PostgreSQL at DAGSTER_POSTGRES_URL or on the embedded server.

Named in dagster.yaml, so that every Dagster process (webserver, daemon, code server, run, a bare
`dagster dev`) finds the server by itself and holds it for as long as it lives. The URL is read
in each process and so stands in no command line and in no instance reference. Being in every
Dagster process, also one that somebody starts by hand, it is where such a process is kept apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster._config.config_schema import UserConfigSchema
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage

from grade_ml.core import database
from grade_ml.core.process import keep_apart
from grade_ml.core.settings import Settings


class GradeMLStorage(DagsterPostgresStorage):
    """Run, event log and schedule storage on the `dagster` database of the settings."""

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Return the options in dagster.yaml: none."""
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> GradeMLStorage:
        """Return the storage; the embedded server is started if it is needed."""
        keep_apart()
        urls = database.start(Settings.from_environment())
        return cls(postgres_url=urls.dagster, inst_data=inst_data)
