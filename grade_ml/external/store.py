"""Stores observations with every revision, and the result of each collection.

A value that differs from the newest value of the same key is a new row, available from the moment
it was fetched, so what was known at an earlier moment can still be read. Which of the rows count on
a day is decided by `features`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert

from grade_ml.core.database import copy_frame
from grade_ml.external.protocol import Window
from grade_ml.external.tables import collection, observation

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = [column.name for column in observation.columns]


def add(connection: Connection, frame: pd.DataFrame) -> int:
    """Store the new values of `frame` (see `frames.SCHEMA`); return the number of new rows.

    The first value of a key counts as available from the time that its source states. A value that
    differs from the newest is a revision, available from its `fetched_at` on at the earliest.
    """
    connection.execute(
        sa.text(f"create temp table staged on commit drop as table {observation} with no data")
    )
    copy_frame(connection, "staged", frame[_COLUMNS])
    staged = sa.table("staged", *(sa.column(c.name, c.type) for c in observation.columns))
    earlier = observation.alias("earlier")
    newest = (
        sa.select(earlier.c.value, earlier.c.available_at)
        .where(
            *(
                earlier.c[name] == staged.c[name]
                for name in ("source", "series", "place", "observed_on")
            )
        )
        .order_by(earlier.c.available_at.desc())
        .limit(1)
        .correlate(staged)
        .lateral("newest")
    )
    available_at = sa.case(
        (newest.c.available_at.is_(None), staged.c.available_at),
        else_=sa.func.greatest(staged.c.available_at, staged.c.fetched_at),
    )
    said_anew = (
        sa.select(
            *(
                available_at.label(name) if name == "available_at" else staged.c[name]
                for name in _COLUMNS
            )
        )
        .select_from(staged.outerjoin(newest, sa.true()))
        .where(
            newest.c.available_at.is_(None) | newest.c.value.is_distinct_from(staged.c.value),
        )
    )
    row = insert(observation).from_select(_COLUMNS, said_anew)
    stored = connection.execute(
        # A value that was not yet available is replaced: it was corrected before it was published.
        row.on_conflict_do_update(
            index_elements=list(observation.primary_key),
            set_={"value": row.excluded.value, "fetched_at": row.excluded.fetched_at},
            where=observation.c.available_at >= row.excluded.fetched_at,
        ),
        execution_options={"preserve_rowcount": True},
    )
    connection.execute(sa.text("drop table staged"))
    return stored.rowcount


@dataclass(frozen=True)
class Collection:
    """The result of one collection of one source.

    `problem` is a sentence on why not everything came, `None` if everything did.
    """

    source: str
    window: Window
    collected_at: datetime
    rows_new: int
    requests: int
    problem: str | None


def record(connection: Connection, done: Collection) -> None:
    """Write down what became of a collection."""
    connection.execute(
        sa.insert(collection).values(
            source=done.source,
            first_day=done.window.first,
            last_day=done.window.last,
            collected_at=done.collected_at,
            rows_new=done.rows_new,
            requests=done.requests,
            problem=done.problem,
        )
    )


def last_good(connection: Connection, source: str) -> datetime | None:
    """Return when a source was last collected completely, `None` if it never was."""
    moment = connection.execute(
        sa.select(sa.func.max(collection.c.collected_at)).where(
            collection.c.source == source, collection.c.problem.is_(None)
        )
    ).scalar_one()
    return moment if moment is None else moment.astimezone(UTC)
