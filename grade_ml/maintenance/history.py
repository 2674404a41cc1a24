"""The table of the installation's health, which is judged every hour."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import JSONB, insert

from grade_ml.core.plain import plain
from grade_ml.core.policy import TablePolicy
from grade_ml.maintenance.health import PARTS, Part, SystemHealth

metadata = sa.MetaData(schema="maintenance")

system_health = sa.Table(
    "system_health",
    metadata,
    sa.Column(
        "as_of",
        sa.TIMESTAMP(timezone=True),
        primary_key=True,
        comment="moment of the examination",
    ),
    sa.Column(
        "score", sa.Double, comment="health of the installation, 0-100; null: nothing is known"
    ),
    sa.Column(
        "parts", JSONB, nullable=False, comment="part -> points, weight, sentence (says) and remedy"
    ),
    # A week of term is compared with the same week of the year before. 9,000 rows of 3 kB.
    info=TablePolicy("maintenance", time="as_of", days=400).info,
)


def record(connection: Connection, health: SystemHealth) -> None:
    """Store the installation's health; it replaces an earlier row of the same moment."""
    statement = insert(system_health).values(
        as_of=health.as_of, score=health.score, parts=plain(health.parts)
    )
    new = statement.excluded
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["as_of"], set_={"score": new.score, "parts": new.parts}
        )
    )


def newest(connection: Connection) -> SystemHealth | None:
    """Return the newest stored health of the installation, or None if there is none."""
    query = sa.select(system_health).order_by(system_health.c.as_of.desc()).limit(1)
    row: Any = connection.execute(query).one_or_none()
    if row is None:
        return None
    # JSONB orders names by length; another version may have stored fewer parts.
    parts = {name: Part(**row.parts[name]) for name in PARTS if name in row.parts}
    return SystemHealth(row.as_of, row.score, parts)


def scores(connection: Connection, at: datetime, days: int) -> list[tuple[datetime, float | None]]:
    """Return moment and score of the last `days` days up to `at`, oldest first."""
    column = system_health.c
    query = sa.select(column.as_of, column.score).where(
        column.as_of.between(at - timedelta(days=days), at)
    )
    return [(row.as_of, row.score) for row in connection.execute(query.order_by(column.as_of))]
