"""Removes outdated versions of models, but none that is still needed, however old it is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from grade_ml.core import database
from grade_ml.core.errors import ServiceError
from grade_ml.ensemble.names import POOLED
from grade_ml.experiments import store as experiments
from grade_ml.explanations import tables as explanations
from grade_ml.forecasting.tables import course_run, trajectory_model
from grade_ml.forecasting.trajectory import NAME as TRAJECTORY
from grade_ml.maintenance.cleaning import Found, Freed, total
from grade_ml.registry.history import last_moved
from grade_ml.registry.registry import Registered, Registry
from grade_ml.registry.transition import Stages, held
from grade_ml.serving.predictions import grade_prediction

#: A run takes four hours at most, and is tried at most three times; it registers no version later.
_ABANDONED = timedelta(days=7)
#: Versions that are removed while transitions wait: this takes a second on an idle machine.
_AT_ONCE = 50
#: Tables whose rows name the version that made them.
_MADE_BY = (
    grade_prediction,
    explanations.attribution,
    explanations.advice,
    explanations.decision_path,
)
#: The parameter by which a correction names the version that it corrects.
_CORRECTS = "pooled_version"


def needed(connection: Connection) -> set[tuple[str, int]]:
    """Return name and version of the models that stored rows or an experiment need.

    A what-if predicts again with the version that made a stored prediction; the arms of an
    experiment that has not ended are compared, promoted or rolled back.
    """
    needed_versions = {
        (row.model_name, row.model_version)
        for table in _MADE_BY
        for row in connection.execute(
            sa.select(table.c.model_name, table.c.model_version).distinct()
        )
    }
    # The versions of all last forecasts, and the version from which the next training continues.
    forecast = sa.select(course_run.c.model_version).distinct()
    newest = sa.select(trajectory_model.c.version).order_by(
        trajectory_model.c.as_of.desc(), trajectory_model.c.version.desc()
    )
    numbers = [
        *connection.execute(forecast).scalars(),
        *connection.execute(newest.limit(1)).scalars(),
        *connection.execute(newest.where(trajectory_model.c.accepted).limit(1)).scalars(),
    ]
    needed_versions |= {(TRAJECTORY, number) for number in numbers}
    return needed_versions | {
        arm.model
        for experiment in experiments.read(connection)
        if experiment.state is not experiments.State.ENDED
        for arm in experiment.plan.arms
        if arm.model
    }


@dataclass(frozen=True)
class Versions:
    """The outdated versions: old, without a stage, and needed by nothing."""

    stages: Stages
    at: datetime
    days: int
    name: str = "model versions"
    may_be_emptied: bool = False

    def find(self) -> Found:
        """Return what is outdated; the bytes are those of the files."""
        with _answering():
            versions = self.stages.registry.registered()
            outdated = self._outdated(versions)
            size = sum(self.stages.registry.size(version.run_id) for version in outdated)
            return Found(len(outdated), size, len(versions) - len(outdated))

    def remove(self) -> Freed:
        """Delete what is outdated: files, version, and run."""
        registry, removed, freed = self.stages.registry, 0, 0
        sizes: dict[str, int] = {}

        def choose() -> list[Registered]:
            outdated = self._outdated(registry.registered())[:_AT_ONCE]
            sizes.update({version.run_id: registry.size(version.run_id) for version in outdated})
            return outdated

        reason = f"nothing has needed it for {self.days} days"
        with _answering():
            while removed_versions := self.stages.discard(choose, reason):
                for version in removed_versions:
                    registry.drop_run(version.run_id)
                removed, freed = (
                    removed + len(removed_versions),
                    freed + sum(sizes[version.run_id] for version in removed_versions),
                )
        return Freed(removed, freed)

    def _outdated(self, versions: Sequence[Registered]) -> list[Registered]:
        registry, oldest = self.stages.registry, self.at - timedelta(days=self.days)
        with database.reachable(self.stages.engine) as connection:
            moved = last_moved(connection)
            spared = needed(connection) | held(connection, registry)
        spared |= set(_beneath(registry, versions, spared))
        return [
            version
            for version in versions
            if (key := (version.name, version.version)) not in spared
            and max(version.at, moved.get(key, version.at)) < oldest
        ]


def _beneath(
    registry: Registry, versions: Sequence[Registered], spared: Collection[tuple[str, int]]
) -> Iterator[tuple[str, int]]:
    """Yield the pooled versions that the remaining corrections correct."""
    for version in versions:
        if version.name != POOLED and (version.name, version.version) in spared:
            number = registry.parameter(version, _CORRECTS)
            if number is not None:
                yield POOLED, int(number)


@dataclass(frozen=True)
class Abandoned:
    """Runs in MLflow, with their files, that have no version because their training was killed."""

    stages: Stages
    at: datetime
    name: str = "runs without a version"
    may_be_emptied: bool = True

    def find(self) -> Found:
        """Return what is outdated; the bytes are those of the files."""
        with _answering():
            run_ids = self._outdated()
            return Found(len(run_ids), sum(map(self.stages.registry.size, run_ids)), 0)

    def remove(self) -> Freed:
        """Delete them with their files."""
        with _answering():
            run_ids = self._outdated()
            size = sum(map(self.stages.registry.size, run_ids))
            for run_id in run_ids:
                self.stages.registry.drop_run(run_id)
        return Freed(len(run_ids), size)

    def _outdated(self) -> list[str]:
        return self.stages.registry.unregistered(self.at - _ABANDONED)


@dataclass(frozen=True)
class RowsOfVersions:
    """The rows of a table that name versions which are no longer registered."""

    stages: Stages
    table: sa.Table
    may_be_emptied: bool = False

    @property
    def name(self) -> str:
        """The table's name, with its schema."""
        return self.table.fullname

    def find(self) -> Found:
        """Return what is outdated."""
        with _answering(), database.reachable(self.stages.engine) as connection:
            row: sa.ColumnClause[object] = sa.literal_column(f'"{self.table.name}"')
            select = sa.select(sa.func.count(), total(sa.func.pg_column_size(row)))
            select = select.select_from(self.table)
            count, size = connection.execute(select.where(self._outdated(connection))).one()
            every = connection.execute(select).one()[0]
        return Found(count, int(size), every - count)

    def remove(self) -> Freed:
        """Delete what is outdated."""
        size = self.find().bytes
        with _answering(), database.reachable(self.stages.engine) as connection:
            deleted = connection.execute(
                sa.delete(self.table).where(self._outdated(connection))
            ).rowcount
        return Freed(deleted, 0, size)

    def _outdated(self, connection: Connection) -> sa.ColumnElement[bool]:
        """Return the condition; the table is read first: versions are registered before rows."""
        table = self.table.c
        if self.table is trajectory_model:
            model: sa.ColumnElement[str] = sa.literal(TRAJECTORY)
            number = table.version
        else:
            model, number = table.model_name, table.model_version
        named = {(*row,) for row in connection.execute(sa.select(model, number).distinct())}
        registered = {
            (version.name, version.version) for version in self.stages.registry.registered()
        }
        return sa.tuple_(model, number).in_(sorted(named - registered))


@contextmanager
def _answering() -> Iterator[None]:
    """Turn errors of MLflow, its database and its files into a `ServiceError`."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise ServiceError(
            f"The registry of models cannot be cleaned up: {type(error).__name__}: {error}.",
            "The next clean-up continues where this one ended.",
        ) from error


def outdated_versions(
    stages: Stages, at: datetime, days: int
) -> list[Versions | Abandoned | RowsOfVersions]:
    """Return everything that becomes outdated with versions of models, in order of removal.

    Parameters
    ----------
    at
        Now, by the clock that timestamps versions and runs.
    days
        How long versions are kept that are not needed.
    """
    return [
        Versions(stages, at, days),
        Abandoned(stages, at),
        RowsOfVersions(stages, explanations.reference),
        RowsOfVersions(stages, trajectory_model),
    ]
