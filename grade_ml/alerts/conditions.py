"""What is wrong and since when; a notice goes to the outbox when it begins and when it is over.

What is worth an alert is decided by who calls `record`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert

from grade_ml.alerts import outbox
from grade_ml.alerts.channels import PARAGRAPH, Notice
from grade_ml.core import texts
from grade_ml.core.policy import TablePolicy

logger = logging.getLogger(__name__)

metadata = sa.MetaData(schema="alerts")

condition = sa.Table(
    "condition",
    metadata,
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("opened_at", sa.TIMESTAMP(timezone=True), primary_key=True),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("recovered_at", sa.TIMESTAMP(timezone=True)),
    info=TablePolicy("alerts", time="opened_at").info,
)
_IS_OPEN = condition.c.recovered_at.is_(None)


def record(
    connection: Connection,
    wrong: Mapping[str, str],
    watched: Callable[[str], bool],
    channels: Collection[str],
    at: datetime,
) -> list[Notice]:
    """Return what has begun to be wrong and what no longer is, having put it into the outbox.

    What is open already is not repeated; where two processes find the same at once, one has it.
    The log is written at once, other channels by `outbox.deliver`.

    Parameters
    ----------
    wrong
        What is wrong now: message by subject.
    watched
        Whether a subject is among those that `wrong` would name: only these can recover.
    channels
        The names of those by which it is to be sent.
    at
        Timezone-aware.
    """
    wrong = {texts.readable(one): texts.readable(text) for one, text in wrong.items()}
    over = [one.subject for one in open_conditions(connection) if one.subject not in wrong]
    notices = [
        *_opened(connection, wrong, at),
        *_closed(connection, list(filter(watched, over)), at),
    ]
    for notice in notices:
        logger.log(
            logging.INFO if notice.recovered else logging.WARNING,
            "%s. %s",
            notice.title,
            texts.line(notice.message, PARAGRAPH),
        )
    outbox.put(connection, notices, channels, at)
    return notices


def open_conditions(connection: Connection) -> list[sa.Row[tuple[str, datetime, str]]]:
    """Return subject, opened_at and message of what is wrong, the oldest first."""
    column = condition.c
    query = sa.select(column.subject, column.opened_at, column.message).where(_IS_OPEN)
    return list(connection.execute(query.order_by(column.opened_at, column.subject)))


def _opened(connection: Connection, wrong: Mapping[str, str], at: datetime) -> list[Notice]:
    rows = [
        {"subject": one, "opened_at": at, "message": text} for one, text in sorted(wrong.items())
    ]
    if not rows:
        return []
    new = insert(condition).values(rows).on_conflict_do_nothing()
    found = connection.execute(new.returning(condition.c.subject, condition.c.message))
    return [Notice(row.subject, row.message) for row in sorted(found)]


def _closed(connection: Connection, over: Collection[str], at: datetime) -> list[Notice]:
    ended = sa.update(condition).where(condition.c.subject.in_(over), _IS_OPEN)
    found = connection.execute(
        ended.values(recovered_at=at).returning(condition.c.subject, condition.c.message)
    )
    return [Notice(row.subject, f"It was: {row.message}", recovered=True) for row in sorted(found)]
