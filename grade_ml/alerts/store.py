"""The table of alerts: which were raised, and which are still open."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

metadata = sa.MetaData(schema="monitoring")

alert = sa.Table(
    "alert",
    metadata,
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("opened_at", sa.TIMESTAMP(timezone=True), primary_key=True),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("recovered_at", sa.TIMESTAMP(timezone=True)),
)


def open_alerts(connection: Connection) -> dict[str, str]:
    """Return the messages of the alerts that have not recovered, by subject."""
    query = sa.select(alert.c.subject, alert.c.message).where(alert.c.recovered_at.is_(None))
    return {row.subject: row.message for row in connection.execute(query)}


def open_alert(connection: Connection, subject: str, message: str, at: datetime) -> None:
    """Write down that an alert was raised."""
    connection.execute(sa.insert(alert).values(subject=subject, opened_at=at, message=message))


def close_alert(connection: Connection, subject: str, at: datetime) -> None:
    """Write down that what an alert was about is over."""
    connection.execute(
        sa.update(alert)
        .where(alert.c.subject == subject, alert.c.recovered_at.is_(None))
        .values(recovered_at=at)
    )
