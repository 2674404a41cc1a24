"""Stores the time, memory and processor time that each step of each run used.

The rows outlive Dagster's event log, from which runs are pruned. The executor of steps records.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert

from grade_ml.core.policy import TablePolicy
from grade_ml.core.process import Usage

metadata = sa.MetaData(schema="maintenance")

step_usage = sa.Table(
    "step_usage",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("step", sa.Text, primary_key=True),
    sa.Column(
        "started_at",
        sa.TIMESTAMP(timezone=True),
        nullable=False,
        comment="of the first attempt; the other columns are of all attempts",
    ),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column(
        "peak_rss_mb",
        sa.Double,
        nullable=False,
        comment="peak memory of the process and its children, MB",
    ),
    sa.Column(
        "cpu_seconds",
        sa.Double,
        nullable=False,
        comment="processor time of the process and its children, seconds",
    ),
    # A term and its comparison with the one before; 20 steps a run and 30 runs a day make 110,000
    # rows.
    info=TablePolicy("maintenance", time="started_at", days=180).info,
)


def record(
    connection: Connection, run_id: str, step: str, started_at: datetime, used: Usage
) -> None:
    """Store what an attempt of a step used; later attempts are added to it.

    Parameters
    ----------
    started_at
        Timezone-aware.
    """
    row = insert(step_usage).values(
        run_id=run_id,
        step=step,
        started_at=started_at,
        seconds=used.seconds,
        peak_rss_mb=used.peak_rss_mb,
        cpu_seconds=used.cpu_seconds,
    )
    stored, new = step_usage.c, row.excluded
    connection.execute(
        row.on_conflict_do_update(
            index_elements=[stored.run_id, stored.step],
            set_={
                "seconds": stored.seconds + new.seconds,
                "peak_rss_mb": sa.func.greatest(stored.peak_rss_mb, new.peak_rss_mb),
                "cpu_seconds": stored.cpu_seconds + new.cpu_seconds,
            },
        )
    )


def of_runs(connection: Connection, run_ids: Collection[str]) -> dict[str, Usage]:
    """Return the sum of the usage of each run's steps; runs without recorded steps are left out."""
    column = step_usage.c
    query = (
        sa.select(
            column.run_id,
            sa.func.sum(column.seconds),
            sa.func.max(column.peak_rss_mb),
            sa.func.sum(column.cpu_seconds),
        )
        .where(column.run_id.in_(run_ids))
        .group_by(column.run_id)
    )
    return {run_id: Usage(*used) for run_id, *used in connection.execute(query)}
