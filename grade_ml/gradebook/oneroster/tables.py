"""The tables of the mirror: the rows of the source, identified by `sourcedId`.

`mirror` maintains them, `deriving` makes the gradebook's rows of them. Ids are those of the
gradebook: a class is a section, a line item an assignment. References may lead nowhere until a
later delivery brings what they name.
"""

from __future__ import annotations

import sqlalchemy as sa

from grade_ml.core.policy import TablePolicy
from grade_ml.gradebook.schema import SCHEMA

metadata = sa.MetaData(schema=SCHEMA)


def _table(name: str, *columns: sa.Column[object], personal: tuple[str, ...] = ()) -> sa.Table:
    return sa.Table(
        f"oneroster_{name}",
        metadata,
        sa.Column("sourced_id", sa.Text, primary_key=True),
        sa.Column("modified", sa.DateTime, comment="dateLastModified, UTC"),
        *columns,
        info=TablePolicy("gradebook", personal=personal, time="modified").info,
    )


session = _table(
    "session",
    sa.Column("title", sa.Text),
    sa.Column("type", sa.Text),
    sa.Column("starts_on", sa.Date),
    sa.Column("ends_on", sa.Date),
    sa.Column("parent", sa.Text),
)
class_ = _table(
    "class",
    sa.Column("course_id", sa.Text),
    sa.Column("sessions", sa.Text, comment="sourcedIds with commas between them"),
)
category = _table("category", sa.Column("title", sa.Text), sa.Column("weight", sa.Double))
line_item = _table(
    "line_item",
    sa.Column("section_id", sa.Text, nullable=False),
    sa.Column("category_id", sa.Text),
    sa.Column("title", sa.Text),
    sa.Column("due_on", sa.Date),
    sa.Column("min_score", sa.Double, nullable=False),
    sa.Column("max_score", sa.Double, nullable=False),
    sa.Column("weight", sa.Double),
    sa.Column("extra_credit", sa.Boolean),
    sa.Column("scale", sa.Text),
)
score_scale = _table(
    "score_scale", sa.Column("section_id", sa.Text), sa.Column("entries", sa.Text, nullable=False)
)
line_item_scale = _table(
    "line_item_scale", sa.Column("assignment_id", sa.Text), sa.Column("scale", sa.Text)
)
result_scale = _table("result_scale", sa.Column("result_id", sa.Text), sa.Column("scale", sa.Text))
enrollment = _table(
    "enrollment",
    sa.Column("section_id", sa.Text, nullable=False),
    sa.Column("student_id", sa.Text, nullable=False),
    sa.Column("begins_on", sa.Date),
    sa.Column("ends_on", sa.Date),
    personal=("student_id",),
)
result = _table(
    "result",
    sa.Column("assignment_id", sa.Text, nullable=False),
    sa.Column("student_id", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("points", sa.Double),
    sa.Column("words", sa.Text, comment="a score that is no number"),
    sa.Column("scale", sa.Text),
    sa.Column("dated_on", sa.Date),
    sa.Column("late", sa.Boolean),
    personal=("student_id", "status", "points", "words"),
)
system = sa.Table(
    "oneroster_system",
    metadata,
    sa.Column("class_id", sa.Text, primary_key=True),
    sa.Column("system", sa.Text, nullable=False, comment="which last delivered the class"),
    info=TablePolicy("gradebook").info,
)
text = sa.Table(
    "oneroster_text",
    metadata,
    sa.Column("text", sa.Text, primary_key=True, comment="of the institution's, case-folded"),
    sa.Column("per_cent", sa.Double, nullable=False),
    info=TablePolicy("gradebook").info,
)
