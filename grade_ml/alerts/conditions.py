"""What is wrong and since when; a notice goes to the outbox when it begins and when it is over.

The caller of `record` decides what deserves an alert.
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
    # Questions of how often something was wrong concern this year and the last.
    info=TablePolicy("alerts", time="opened_at", days=800, newest=("subject",)).info,
)
_IS_OPEN = condition.c.recovered_at.is_(None)


def record(
    connection: Connection,
    wrong: Mapping[str, str],
    watched: Callable[[str], bool],
    channels: Collection[str],
    at: datetime,
) -> list[Notice]:
    """Put notices of what began to be wrong and of what is over into the outbox; return them.

    A condition that is open already is not repeated; if two processes detect it at the same time,
    one of them records it. The log is written at once, other channels by `outbox.deliver`.

    Parameters
    ----------
    wrong
        What is wrong now: message by subject.
    watched
        Whether `wrong` would name this subject if it were wrong: only such subjects can recover.
    channels
        The names of the channels by which the notices are sent.
    at
        Timezone-aware.
    """
    wrong = {texts.readable(name): texts.readable(text) for name, text in wrong.items()}
    over = [row.subject for row in open_conditions(connection) if row.subject not in wrong]
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
        {"subject": subject, "opened_at": at, "message": text}
        for subject, text in sorted(wrong.items())
    ]
    if not rows:
        return []
    new = insert(condition).values(rows).on_conflict_do_nothing()
    opened = connection.execute(new.returning(condition.c.subject, condition.c.message))
    return [Notice(row.subject, row.message) for row in sorted(opened)]


def _closed(connection: Connection, over: Collection[str], at: datetime) -> list[Notice]:
    ended = sa.update(condition).where(condition.c.subject.in_(over), _IS_OPEN)
    closed = connection.execute(
        ended.values(recovered_at=at).returning(condition.c.subject, condition.c.message)
    )
    return [Notice(row.subject, f"It was: {row.message}", recovered=True) for row in sorted(closed)]
