"""Stored predictions: what was served, and what versions under comparison would have said.

No foreign key ties the tables to the gradebook: rows are written by key and read beside the
gradebook, whose loader may replace an enrollment at any time.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import date
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import JSONB, distinct_on

from grade_ml.core.database import read_frame, upsert_frame
from grade_ml.core.policy import TablePolicy

if TYPE_CHECKING:
    import pandas as pd

    from grade_ml.registry.registry import ModelVersion

metadata = sa.MetaData(schema="ensemble")

_NUMBERS = {
    "grade": "expected final grade, 0-100",
    "lower80": None,
    "upper80": None,
    "lower95": None,
    "upper95": None,
    "risk": "probability of fail or withdrawal, 0-1",
}
NUMBERS = tuple(_NUMBERS)


def _numbers() -> list[sa.Column[float]]:
    return [sa.Column(name, sa.Double, comment=says) for name, says in _NUMBERS.items()]


grade_prediction = sa.Table(
    "grade_prediction",
    metadata,
    sa.Column("section_id", sa.Text, primary_key=True),
    sa.Column("student_id", sa.Text, primary_key=True),
    sa.Column("as_of", sa.Date, primary_key=True, comment="what the prediction was made from"),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("model_version", sa.Integer, nullable=False),
    *_numbers(),
    sa.Column("degraded", JSONB, nullable=False, server_default=sa.text("'[]'")),
    sa.Column("naive", sa.Double, comment="the rate of points so far, 0-100"),
    sa.Column("origin", sa.Text, comment="of the records that it knows; null: unknown"),
    info=TablePolicy("serving", personal=("student_id",), time="as_of").info,
)
shadow_prediction = sa.Table(
    "shadow_prediction",
    metadata,
    sa.Column("section_id", sa.Text, primary_key=True),
    sa.Column("student_id", sa.Text, primary_key=True),
    sa.Column("as_of", sa.Date, primary_key=True, comment="what the prediction was made from"),
    sa.Column("model_name", sa.Text, primary_key=True),
    sa.Column("model_version", sa.Integer, primary_key=True),
    *_numbers(),
    sa.Column(
        "implied",
        sa.Double,
        comment="what the work to come would earn on average, 0-100; null: too little is to come",
    ),
    info=TablePolicy("serving", personal=("student_id",), time="as_of").info,
)


def write_predictions(
    connection: Connection,
    frame: pd.DataFrame,
    *,
    as_of: date,
    model: ModelVersion,
    degraded: Sequence[str] = (),
) -> int:
    """Store the predictions of `model` made at `as_of`; return the number of rows.

    Writing the same again changes nothing; another model replaces the rows of that day.

    Parameters
    ----------
    frame
        Columns section_id, student_id and `NUMBERS`; where they are known, naive and origin, which
        tells what records the features were made from (`features.refresh.origin_of`). One row per
        enrollment.
    degraded
        Why these predictions are less than they could be; empty: they are not.
    """
    import pandas as pd

    rows = _rows(frame, NUMBERS, model).assign(
        as_of=pd.Timestamp(as_of),
        degraded=json.dumps(list(degraded)),
        naive=frame["naive"].astype("float64") if "naive" in frame else None,
        origin=frame.get("origin"),
    )
    upsert_frame(connection, grade_prediction, rows)
    return len(rows)


def write_shadows(connection: Connection, frame: pd.DataFrame, *, model: ModelVersion) -> int:
    """Store what `model` would have said; return the number of rows.

    Writing the same again changes nothing.

    Parameters
    ----------
    frame
        Columns section_id, student_id, as_of, `NUMBERS` and implied; one row per enrollment and
        day.
    """
    rows = _rows(frame, (*NUMBERS, "implied"), model).assign(as_of=frame["as_of"].array)
    upsert_frame(connection, shadow_prediction, rows)
    return len(rows)


def _rows(frame: pd.DataFrame, numbers: Sequence[str], model: ModelVersion) -> pd.DataFrame:
    rows = frame[["section_id", "student_id"]].astype("string[pyarrow]")
    rows["model_name"] = model.name
    rows["model_version"] = model.version
    rows[list(numbers)] = frame[list(numbers)].astype("float64")
    return rows


def read_predictions(
    connection: Connection, *, as_of: date, sections: Collection[str] | None = None
) -> pd.DataFrame:
    """Return each enrollment's newest prediction that is not later than `as_of`.

    The columns are those of the table; `degraded` is JSON text.
    """
    return read_frame(connection, _newest(grade_prediction, as_of, sections))


def read_shadows(
    connection: Connection,
    model: ModelVersion,
    *,
    as_of: date,
    sections: Collection[str] | None = None,
) -> pd.DataFrame:
    """Return what `model` would have said last of each enrollment, not later than `as_of`.

    The columns are those of the table.
    """
    table = shadow_prediction.c
    return read_frame(
        connection,
        _newest(shadow_prediction, as_of, sections).where(
            table.model_name == model.name, table.model_version == model.version
        ),
    )


def _newest(
    table: sa.Table, as_of: date, sections: Collection[str] | None
) -> sa.Select[tuple[object, ...]]:
    column = table.c
    newest = (
        sa.select(table)
        .ext(distinct_on(column.section_id, column.student_id))
        .where(column.as_of <= as_of)
        .order_by(column.section_id, column.student_id, column.as_of.desc())
    )
    return newest if sections is None else newest.where(column.section_id.in_(sorted(sections)))
