"""An installation for one measurement: an embedded PostgreSQL in a folder that goes with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine

from grade_ml.core import database, embedded_postgres
from grade_ml.core.settings import Settings
from grade_ml.registry.registry import Registry
from grade_ml.registry.workspace import Opening, Workspace


@contextmanager
def temporary_installation() -> Iterator[tuple[Settings, Engine]]:
    """Yield the settings of an empty installation and an engine on its `grade_ml` database."""
    with tempfile.TemporaryDirectory(prefix="grade_ml_benchmark_") as home:
        settings = Settings(_env_file=None, home=Path(home))
        engine = database.migrated(database.start(settings).grade_ml)
        try:
            yield settings, engine
        finally:
            engine.dispose()
            embedded_postgres.release(settings.postgres_dir)


def opening(engine: Engine, registry: Registry, root: str, now: datetime) -> Opening:
    """Return what opens the stores at a moment, each time in a transaction of its own."""

    @contextmanager
    def opened() -> Iterator[Workspace]:
        with engine.begin() as connection:
            yield Workspace(connection, registry, root, now.date(), now)

    return opened
