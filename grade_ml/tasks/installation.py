"""The installation that runs the tasks: its settings, its table of results, its webserver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from grade_ml.core.settings import Settings, UiSettings
from grade_ml.tasks.errors import WebserverUnavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from grade_ml.tasks.webserver import Webserver


@dataclass(frozen=True)
class Installation:
    """One installation; it connects to nothing before the first use."""

    settings: Settings
    ui: UiSettings

    @classmethod
    def of_environment(cls) -> Installation:
        """Return the installation of the environment, as for every command of grade-ml."""
        return cls(Settings.from_environment(), UiSettings.from_environment())

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Open one transaction; raise `ServiceError` if the database does not answer."""
        from grade_ml.core import database

        with database.reachable(_engine(database.start(self.settings).grade_ml)) as connection:
            yield connection

    @property
    def webserver(self) -> Webserver:
        """Dagster's webserver: that of GRADE_ML_UI_URL, otherwise that of the `up` on this home.

        Raises
        ------
        WebserverUnavailable
            Neither exists.
        """
        from grade_ml.core.up_record import where
        from grade_ml.tasks.webserver import Webserver

        running = where(self.settings.home)
        url = self.ui.url or (running and running[0])
        if url is None:
            raise WebserverUnavailable(
                f"No `grade-ml up` runs on {self.settings.home}, and GRADE_ML_UI_URL is unset.",
                "Start it, or name the webserver that runs elsewhere.",
            )
        token = self.ui.token.get_secret_value() if self.ui.token else None
        return Webserver(url.rstrip("/"), token)


@cache
def _engine(url: str) -> Engine:
    from grade_ml.core import database

    return database.migrated(url)
