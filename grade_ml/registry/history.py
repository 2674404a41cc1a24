"""The recorded stages of versions: the table, and queries that need no MLflow.

Nothing heavy is imported here, because schedules query it every few hours. Only `transition` writes
the records.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import JSONB, distinct_on

from grade_ml.core.policy import TablePolicy

metadata = sa.MetaData(schema="registry")

transition = sa.Table(
    "transition",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("from_stage", sa.Text, nullable=False),
    sa.Column("to_stage", sa.Text, nullable=False),
    sa.Column("replaced", sa.Integer, comment="the version that held `to_stage` before"),
    sa.Column("decided_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("figures", JSONB, nullable=False),
    sa.Column(
        "confirmed_at",
        sa.TIMESTAMP(timezone=True),
        comment="when the alias in MLflow was moved; null: not yet",
    ),
    info=TablePolicy("registry", time="decided_at").info,
)


class Stage(StrEnum):
    """The stages of a version's life; a version that was only registered is candidate."""

    CANDIDATE = "candidate"
    CHALLENGER = "challenger"
    CHAMPION = "champion"
    RETIRED = "retired"
    ROLLED_BACK = "rolled back"


_HELD = (Stage.CHAMPION, Stage.CHALLENGER)


def newest(connection: Connection) -> int | None:
    """Return the id of the newest transition of any version, `None` if there was none."""
    newest: int | None = connection.execute(sa.select(sa.func.max(transition.c.id))).scalar()
    return newest


def holders(connection: Connection, name: str) -> dict[Stage, int]:
    """Return the versions of a model that are champion and challenger according to the records.

    It does not query MLflow, so that a schedule may call it every few hours.
    """
    stages = recorded_stages(connection, name)[name]
    return {stage: version for version, stage in stages.items() if stage in _HELD}


def champions(connection: Connection) -> dict[str, int]:
    """Return the champion of each model that has one, without a query to MLflow."""
    return {
        name: version
        for name, stages in recorded_stages(connection, None).items()
        for version, stage in stages.items()
        if stage is Stage.CHAMPION
    }


def last_moved(connection: Connection) -> dict[tuple[str, int], datetime]:
    """Return when each version changed its stage last, by name and version."""
    table = transition.c
    rows = connection.execute(
        sa.select(
            table.model_name, table.version, sa.func.max(table.decided_at).label("at")
        ).group_by(table.model_name, table.version)
    )
    return {(row.model_name, row.version): row.at for row in rows}


def recorded_stages(connection: Connection, name: str | None) -> defaultdict[str, dict[int, Stage]]:
    """Return the stage of each version that ever left that of a candidate, by model."""
    table = transition.c
    query = (
        sa.select(table.model_name, table.version, table.to_stage)
        .ext(distinct_on(table.model_name, table.version))
        .order_by(table.model_name, table.version, table.id.desc())
    )
    stages: defaultdict[str, dict[int, Stage]] = defaultdict(dict)
    for row in connection.execute(query if name is None else query.where(table.model_name == name)):
        stages[row.model_name][row.version] = Stage(row.to_stage)
    return stages
