"""Removes the rows that are older than their table's policy allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from grade_ml.core import database
from grade_ml.core.policy import TablePolicy, outdated
from grade_ml.experiments import store as experiments
from grade_ml.maintenance.cleaning import Found, Freed, total
from grade_ml.maintenance.tables import every_table


@dataclass(frozen=True)
class Rows:
    """The outdated rows of one table.

    Attributes
    ----------
    as_of
        The as-of day, from which days are counted.
    today
        The clock's day: timestamps come from the clock even if `as_of` is set years ahead.
    """

    engine: Engine
    table: sa.Table
    as_of: date
    today: date

    @property
    def name(self) -> str:
        """The table's name, with its schema."""
        return self.table.fullname

    @property
    def may_be_emptied(self) -> bool:
        """Whether the policy keeps no row for ever: rows that wait, were refused or are cached."""
        return not TablePolicy.of(self.table).newest

    def find(self) -> Found:
        """Return what is outdated."""
        with database.reachable(self.engine) as connection:
            row: sa.ColumnClause[object] = sa.literal_column(f'"{self.table.name}"')
            count, size = connection.execute(
                sa.select(sa.func.count(), total(sa.func.pg_column_size(row)))
                .select_from(self.table)
                .where(self._outdated(connection))
            ).one()
            every = connection.execute(
                sa.select(sa.func.count()).select_from(self.table)
            ).scalar_one()
        return Found(count, int(size), int(every) - count)

    def remove(self) -> Freed:
        """Delete what is outdated; the table returns to the disk the space at its end."""
        size = self.find().bytes
        with database.reachable(self.engine) as connection:
            deleted = connection.execute(
                sa.delete(self.table).where(self._outdated(connection))
            ).rowcount
        given_back = self._vacuum()
        return Freed(deleted, given_back, max(0, size - given_back))

    def _outdated(self, connection: Connection) -> sa.ColumnElement[bool]:
        """Return the condition; rows that running experiments may still read are not outdated."""
        policy = TablePolicy.of(self.table)
        assert policy.days is not None
        days = policy.days
        stamped = isinstance(self.table.c[str(policy.time)].type, sa.DateTime)
        as_of = min(self.as_of, self.today) if stamped else self.as_of
        begun = [
            experiment.plan.starts_on
            for experiment in experiments.read(connection)
            if experiment.state is not experiments.State.ENDED
        ]
        return outdated(self.table, min([as_of, *(day + timedelta(days=days) for day in begun)]))

    def _vacuum(self) -> int:
        size = sa.text("select pg_total_relation_size(cast(:name as regclass))")
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            before = int(connection.execute(size, {"name": self.name}).scalar_one())
            connection.execute(sa.text(f"vacuum (analyze) {self.name}"))
            after = int(connection.execute(size, {"name": self.name}).scalar_one())
        return max(0, before - after)


def outdated_rows(engine: Engine, as_of: date, today: date) -> Iterator[Rows]:
    """Yield the rows of each table whose policy sets a number of days."""
    for table in every_table():
        if TablePolicy.of(table).days is not None:
            yield Rows(engine, table, as_of, today)
