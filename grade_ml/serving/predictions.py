"""Stored predictions: those that were served, and those of versions under comparison.

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
    "lower80": "lower end of the 80% interval of the grade",
    "upper80": "upper end of the 80% interval of the grade",
    "lower95": "lower end of the 95% interval of the grade",
    "upper95": "upper end of the 95% interval of the grade",
    "risk": "probability of failing or withdrawing, 0-1",
}
NUMBERS = tuple(_NUMBERS)


#: Monitoring reads sections that ended within 366 days from their first day on, experiments theirs.
_POLICY = TablePolicy(
    "serving", personal=("student_id",), time="as_of", days=800, newest=("section_id",)
)


def _numbers() -> list[sa.Column[float]]:
    return [
        sa.Column(name, sa.Double, comment=description) for name, description in _NUMBERS.items()
    ]


grade_prediction = sa.Table(
    "grade_prediction",
    metadata,
    sa.Column("section_id", sa.Text, primary_key=True),
    sa.Column("student_id", sa.Text, primary_key=True),
    sa.Column(
        "as_of",
        sa.Date,
        primary_key=True,
        comment="day of the features: the prediction used nothing later",
    ),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("model_version", sa.Integer, nullable=False),
    *_numbers(),
    sa.Column("degraded", JSONB, nullable=False, server_default=sa.text("'[]'")),
    sa.Column(
        "naive", sa.Double, comment="share of the points so far that the student earned, 0-100"
    ),
    sa.Column("origin", sa.Text, comment="identifies the records that were used; null: unknown"),
    info=_POLICY.info,
)
shadow_prediction = sa.Table(
    "shadow_prediction",
    metadata,
    sa.Column("section_id", sa.Text, primary_key=True),
    sa.Column("student_id", sa.Text, primary_key=True),
    sa.Column(
        "as_of",
        sa.Date,
        primary_key=True,
        comment="day of the features: the prediction used nothing later",
    ),
    sa.Column("model_name", sa.Text, primary_key=True),
    sa.Column("model_version", sa.Integer, primary_key=True),
    *_numbers(),
    sa.Column(
        "implied",
        sa.Double,
        comment="mean score of the remaining work that the grade implies; null: too little is left",
    ),
    info=_POLICY.info,
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
        Columns section_id, student_id and `NUMBERS`; if they are known, naive and origin, which
        identifies the records that the features were made from (`features.origin.origin_of`). One
        row per enrollment.
    degraded
        The reasons why these predictions are degraded; empty if they are not.
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
    """Store what `model` would have predicted; return the number of rows.

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
    """Return the newest shadow prediction of `model` for each enrollment, not later than `as_of`.

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
