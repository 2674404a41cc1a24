"""The table of stored predictions: one row per enrollment, day and model.

No foreign key ties it to the gradebook: rows are written by key and read beside the gradebook,
whose loader may replace an enrollment at any time.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import date
from typing import TYPE_CHECKING

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import JSONB, distinct_on

from grade_ml.core.database import read_frame, upsert_frame
from grade_ml.core.policy import TablePolicy
from grade_ml.registry.registry import Alias

if TYPE_CHECKING:
    from grade_ml.registry.registry import ModelVersion

metadata = sa.MetaData(schema="ensemble")

grade_prediction = sa.Table(
    "grade_prediction",
    metadata,
    sa.Column("section_id", sa.Text, primary_key=True),
    sa.Column("student_id", sa.Text, primary_key=True),
    sa.Column("as_of", sa.Date, primary_key=True, comment="what the prediction was made from"),
    sa.Column("stage", sa.Text, primary_key=True, comment="champion or challenger"),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("model_version", sa.Integer, nullable=False),
    sa.Column("grade", sa.Double, comment="expected final grade, 0-100"),
    sa.Column("lower80", sa.Double),
    sa.Column("upper80", sa.Double),
    sa.Column("lower95", sa.Double),
    sa.Column("upper95", sa.Double),
    sa.Column("risk", sa.Double, comment="probability of fail or withdrawal, 0-1"),
    sa.Column("degraded", JSONB, nullable=False, server_default=sa.text("'[]'")),
    info=TablePolicy("serving", personal=("student_id",), time="as_of").info,
)
NUMBERS = ("grade", "lower80", "upper80", "lower95", "upper95", "risk")


def write_predictions(  # noqa: PLR0913
    connection: Connection,
    frame: pd.DataFrame,
    *,
    as_of: date,
    model: ModelVersion,
    stage: Alias = Alias.CHAMPION,
    degraded: Sequence[str] = (),
) -> int:
    """Store the predictions of `model` made at `as_of`; return the number of rows.

    Writing the same again changes nothing; another model of the same stage replaces the rows of
    that day.

    Parameters
    ----------
    frame
        Columns section_id, student_id and `NUMBERS`; one row per enrollment.
    degraded
        Why these predictions are less than they could be; empty: they are not.
    """
    rows = frame[["section_id", "student_id"]].astype("string[pyarrow]")
    rows["as_of"] = pd.Timestamp(as_of)
    rows["stage"] = str(stage)
    rows["model_name"] = model.name
    rows["model_version"] = model.version
    rows[list(NUMBERS)] = frame[list(NUMBERS)].astype("float64")
    rows["degraded"] = json.dumps(list(degraded))
    upsert_frame(connection, grade_prediction, rows)
    return len(rows)


def read_predictions(
    connection: Connection,
    *,
    as_of: date,
    stage: Alias = Alias.CHAMPION,
    sections: Collection[str] | None = None,
) -> pd.DataFrame:
    """Return each enrollment's newest prediction of `stage` that is not later than `as_of`.

    The columns are those of the table; `degraded` is JSON text.
    """
    table = grade_prediction.c
    newest = (
        sa.select(grade_prediction)
        .ext(distinct_on(table.section_id, table.student_id))
        .where(table.as_of <= as_of, table.stage == str(stage))
        .order_by(table.section_id, table.student_id, table.as_of.desc())
    )
    if sections is not None:
        newest = newest.where(table.section_id.in_(sorted(sections)))
    return read_frame(connection, newest)
