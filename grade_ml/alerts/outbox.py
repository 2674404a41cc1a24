"""Notices on their way: a row for each notice and channel, kept until the channel has taken it.

A notice is recorded first, in the transaction of its subject; then sent; then marked as taken by
the channel. A process that dies between sending and marking leaves a notice that is sent twice;
none is lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from grade_ml.alerts.channels import Channel, Notice, send, title
from grade_ml.core import texts
from grade_ml.core.policy import TablePolicy, outdated

logger = logging.getLogger(__name__)

metadata = sa.MetaData(schema="alerts")

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("recovered", sa.Boolean, nullable=False),
    sa.Column("recorded_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column(
        "due_at",
        sa.TIMESTAMP(timezone=True),
        nullable=False,
        comment="when the next attempt is due",
    ),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column(
        "problem",
        sa.Text,
        nullable=False,
        server_default="",
        comment="why the last attempt failed; empty: it did not",
    ),
    sa.Column("sent_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("given_up_at", sa.TIMESTAMP(timezone=True)),
    # A notice is tried for at most three days and shown for at most seven more; see below.
    info=TablePolicy("alerts", time="recorded_at", days=14).info,
)
_WAITS = outbox.c.sent_at.is_(None) & outbox.c.given_up_at.is_(None)


@dataclass(frozen=True)
class DeliverySettings:
    """The limits of trying again, each with its reason."""

    #: A server that restarts is back by then; every further pause is twice as long.
    first_pause: timedelta = timedelta(minutes=1)
    #: A repaired channel gets its notices after this pause at the latest.
    longest_pause: timedelta = timedelta(hours=1)
    #: A mail server that fails on Friday evening is repaired on Monday.
    give_up_after: timedelta = timedelta(days=3)
    #: Of a channel in one attempt: a tick of a sensor has 60 seconds.
    at_once: int = 500
    #: A notice that was given up is shown for so long.
    shown_for: timedelta = timedelta(days=7)


SETTINGS = DeliverySettings()


def put(
    connection: Connection, notices: Sequence[Notice], channels: Collection[str], at: datetime
) -> None:
    """Record that the notices are to be sent by each channel, from now on."""
    rows = [
        {"channel": channel, "subject": notice.subject, "message": notice.message}
        | {"recovered": notice.recovered, "recorded_at": at, "due_at": at}
        for notice in notices
        for channel in channels
    ]
    if not rows:
        return
    connection.execute(sa.insert(outbox), rows)
    # A beginning that still waits is sent before its end. A row that is being sent is left alone.
    over = [notice.subject for notice in notices if notice.recovered]
    if not over:
        return
    waiting = sa.select(outbox.c.id).where(outbox.c.subject.in_(over), _WAITS)
    free = waiting.with_for_update(skip_locked=True)
    connection.execute(sa.update(outbox).where(outbox.c.id.in_(free)).values(due_at=at))


def deliver(
    transaction: Callable[[], AbstractContextManager[Connection]],
    channels: Mapping[str, Channel],
    at: datetime,
    settings: DeliverySettings = SETTINGS,
) -> int:
    """Send the due notices by each channel; return how many rows were taken.

    Each channel has its own transaction, so a channel that fails does not stop the others. Rows
    that another process is sending at this moment are left to it.
    """
    count = 0
    for name, channel in channels.items():
        with transaction() as connection:
            count += _deliver(connection, name, channel, at, settings)
    with transaction() as connection:
        # Also rows of channels that are no longer set.
        _give_up(connection, at, settings)
        connection.execute(sa.delete(outbox).where(outdated(outbox, at.date())))
    return count


def _deliver(
    connection: Connection, name: str, channel: Channel, at: datetime, settings: DeliverySettings
) -> int:
    column = outbox.c
    due = sa.select(outbox).where(column.channel == name, _WAITS, column.due_at <= at)
    rows = connection.execute(
        due.order_by(column.id).limit(settings.at_once).with_for_update(skip_locked=True)
    ).all()
    outcomes = send(channel, [_notice(row) for row in rows]) if rows else []
    for problem in sorted({outcome.problem for outcome in outcomes if outcome.problem}):
        failed = [
            _notice(row)
            for row, outcome in zip(rows, outcomes, strict=True)
            if outcome.problem == problem
        ]
        logger.error("%s could not be sent by %s: %s", title(failed), name, problem)
    if rows:
        connection.execute(
            sa.update(outbox).where(column.id == sa.bindparam("row")),
            [
                {"row": row.id, "attempts": row.attempts + 1, "problem": outcome.problem}
                | {"sent_at": at if outcome.taken else None}
                | {"due_at": at + _pause(row.attempts, settings)}
                for row, outcome in zip(rows, outcomes, strict=True)
            ],
        )
    return sum(outcome.taken for outcome in outcomes)


def _notice(row: sa.Row[tuple[object, ...]]) -> Notice:
    moment = row.recorded_at.astimezone(UTC)
    return Notice(row.subject, f"{moment:%Y-%m-%d %H:%M} UTC: {row.message}", row.recovered)


def _pause(attempts: int, settings: DeliverySettings) -> timedelta:
    """Return the pause after one more attempt than `attempts`.

    >>> [str(_pause(number, SETTINGS)) for number in (0, 1, 2, 500)]
    ['0:01:00', '0:02:00', '0:04:00', '1:00:00']
    """
    doubled: int = 2 ** min(attempts, 30)
    return min(settings.first_pause * doubled, settings.longest_pause)


def _give_up(connection: Connection, at: datetime, settings: DeliverySettings) -> None:
    column = outbox.c
    late = sa.update(outbox).where(_WAITS, column.recorded_at <= at - settings.give_up_after)
    given_up = connection.execute(
        late.values(given_up_at=at).returning(column.channel, column.subject, column.problem)
    )
    for row in given_up:
        logger.error(
            "An alert about %s is given up; %s did not take it for %s: %s",
            texts.line(row.subject),
            row.channel,
            settings.give_up_after,
            row.problem or "the channel is not set",
        )


@dataclass(frozen=True)
class Unsent:
    """A notice that a channel has not taken, or not for all recipients."""

    channel: str
    subject: str
    recovered: bool
    recorded_at: datetime
    problem: str
    #: When it is tried again; None if never.
    due_at: datetime | None

    def __str__(self) -> str:
        """Return one sentence.

        >>> noon = datetime(2026, 11, 2, 12, tzinfo=UTC)
        >>> print(Unsent("webhook", "job night", False, noon, "it is down", noon))
        Not sent by webhook (it is down; again at 2026-11-02 12:00 UTC): Alert: job night
        """
        again = (
            f"again at {self.due_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
            if self.due_at
            else "not tried again"
        )
        title = Notice(self.subject, "", self.recovered).title
        return f"Not sent by {self.channel} ({self.problem}; {again}): {title}"


def unsent(
    connection: Connection, at: datetime, settings: DeliverySettings = SETTINGS
) -> list[Unsent]:
    """Return the notices that were not sent so far or were given up lately, the oldest first."""
    column = outbox.c
    ended = sa.func.coalesce(column.given_up_at, column.sent_at)
    query = sa.select(outbox).where(
        column.problem != "", ended.is_(None) | (ended > at - settings.shown_for)
    )
    return [
        Unsent(
            row.channel,
            row.subject,
            row.recovered,
            row.recorded_at,
            row.problem,
            None if row.given_up_at or row.sent_at else row.due_at,
        )
        for row in connection.execute(query.order_by(column.id))
    ]
