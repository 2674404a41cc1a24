"""The resource of assets, checks and sensors: connections that open when first used, and the date.

Settings reach the assets as a plain object, not as resource configuration, because the UI shows
configuration and a URL may hold a password.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, cached_property
from typing import TYPE_CHECKING

from dagster import Field, InitResourceContext, Noneable, ResourceDefinition, resource

from grade_ml.core import database
from grade_ml.core.clock import Clock
from grade_ml.core.dates import parse_date
from grade_ml.core.errors import ConfigurationError
from grade_ml.core.settings import Settings
from grade_ml.orchestration.queue import NOT_AGAIN

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from grade_ml.gradebook.attributes import Declarations
    from grade_ml.gradebook.institution import Institution
    from grade_ml.registry.registry import Registry
    from grade_ml.registry.transition import Stages
    from grade_ml.registry.workspace import Workspace
    from grade_ml.serving.models import Models


@dataclass(frozen=True)
class Platform:
    """The stores of one installation and the date of one run.

    Nothing is started or connected before its first use. `chosen` overrides the date of `settings`.
    """

    settings: Settings
    clock: Clock
    chosen: date | None = None

    @cached_property
    def as_of(self) -> date:
        """The date at which this run computes: its configuration, the setting, or today."""
        return self.settings.date_at(self.clock.now(), self.chosen)

    @cached_property
    def now(self) -> datetime:
        """The moment at which this run computes: now, or the end of `as_of` if that is not today.

        One moment for the whole run.
        """
        moment, zone = self.clock.now(), self.settings.zone
        if moment.astimezone(zone).date() == self.as_of:
            return moment
        return datetime.combine(self.as_of + timedelta(days=1), time(), zone).astimezone(UTC)

    @cached_property
    def urls(self) -> database.DatabaseUrls:
        """The URLs of the databases; from now on this process holds the embedded server, if any."""
        return database.start(self.settings)

    @cached_property
    def engine(self) -> Engine:
        """An engine on the `grade_ml` database, whose tables are up to date."""
        return _engine(self.urls.grade_ml)

    @cached_property
    def institution(self) -> Institution:
        """The decisions of the institution: pass marks, grades, uses of attributes."""
        from grade_ml.gradebook import institution

        return institution.read(self.settings.institution)

    @cached_property
    def declared(self) -> Declarations:
        """The permitted uses of attributes."""
        from grade_ml.gradebook.attributes import declarations

        return declarations(self.institution)

    @cached_property
    def registry(self) -> Registry:
        """The model registry."""
        from grade_ml.registry.registry import Registry

        return Registry.of_installation(self.settings, self.urls.mlflow, self.declared)

    @property
    def stages(self) -> Stages:
        """Moves versions of models between stages."""
        from grade_ml.registry.transition import Stages

        return Stages(self.engine, self.registry, self.now)

    @cached_property
    def models(self) -> Models:
        """The registry's models, each loaded once in a run."""
        from grade_ml.serving.models import Models

        return Models(self.registry)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Open one transaction; raise `ServiceError` if the database does not answer."""
        with database.reachable(self.engine) as connection:
            yield connection

    @contextmanager
    def workspace(self) -> Iterator[Workspace]:
        """Open one transaction, with everything else that a computation needs."""
        from grade_ml.registry.workspace import Workspace

        with self.connection() as connection:
            yield Workspace(
                connection,
                self.registry,
                self.settings.storage_root,
                self.as_of,
                self.now,
                self.institution,
            )

    def close(self) -> None:
        """Close the connections that were opened."""
        if "engine" in self.__dict__:
            self.engine.dispose()


@cache
def _engine(url: str) -> Engine:
    """Return an engine on migrated tables: the code server needs it 10,000 times a day."""
    return database.migrated(url)


def platform_resource(settings: Settings, clock: Clock) -> ResourceDefinition:
    """Return the resource `platform`; its one option `as_of` replays a date (YYYY-MM-DD)."""

    @resource(
        config_schema={
            "as_of": Field(
                Noneable(str),
                default_value=None,
                description="Compute as if it were this date (YYYY-MM-DD); "
                "without it GRADE_ML_AS_OF, else today.",
            )
        },
        description="Gradebook, storage and model registry, opened when first used.",
    )
    def platform(context: InitResourceContext) -> Iterator[Platform]:
        try:
            chosen = _date(context.resource_config["as_of"])
            settings.date_at(clock.now(), chosen)  # refuses the future
        except ConfigurationError:
            if context.run and context.instance:
                context.instance.add_run_tags(context.run.run_id, NOT_AGAIN)
            raise
        opened = Platform(settings, clock, chosen)
        try:
            yield opened
        finally:
            opened.close()

    return platform


def _date(value: str | None) -> date | None:
    try:
        return None if value is None else parse_date(value)
    except ValueError as error:
        raise ConfigurationError(
            f"The run configuration gives as_of = {value!r}, which is not a date.",
            "Write it as YYYY-MM-DD.",
        ) from error
