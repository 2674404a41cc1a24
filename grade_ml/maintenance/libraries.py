"""Stores which optional libraries the installation has had, to tell a loss from a choice.

A library that was never there was left out by choice: each output says what it lacks, and nothing
is to be repaired. One that was there and is gone was lost.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert

from grade_ml.core.optional import FAMILIES, installed
from grade_ml.core.policy import TablePolicy

metadata = sa.MetaData(schema="maintenance")

library = sa.Table(
    "library",
    metadata,
    sa.Column("name", sa.Text, primary_key=True, comment="module of an optional library"),
    sa.Column(
        "seen_at",
        sa.TIMESTAMP(timezone=True),
        nullable=False,
        comment="when an examination of the installation last found it installed",
    ),
    # Whoever has gone without a library for a month has chosen to.
    info=TablePolicy("maintenance", time="seen_at", days=30).info,
)


def record(connection: Connection, at: datetime) -> None:
    """Store which optional libraries are installed now.

    Parameters
    ----------
    at
        Timezone-aware.
    """
    found = [
        {"name": module, "seen_at": at}
        for family in FAMILIES
        for module in family.modules
        if installed(module)
    ]
    if found:
        row = insert(library).values(found)
        connection.execute(
            row.on_conflict_do_update(
                index_elements=[library.c.name], set_={"seen_at": row.excluded.seen_at}
            )
        )


def lost(connection: Connection) -> frozenset[str]:
    """Return the optional libraries that were installed in the last month and are not now."""
    known = connection.execute(sa.select(library.c.name)).scalars()
    return frozenset(module for module in known if not installed(module))
