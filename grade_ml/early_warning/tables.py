"""The tables of what follows from forecasts: risk periods, interventions, anomalies, by day."""

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from grade_ml.core.policy import TablePolicy
from grade_ml.forecasting.tables import metadata

_MEANINGS = {
    "start_week": "first week of the period, counted from the section's start",
    "end_week": "last week of the period",
    "starts_on": "first day of the period",
    "weeks_ahead": "weeks from as_of to the first week of the period",
    "severity": "highest chance of falling behind in any week of the period, 0-1",
    "below_pass_probability": "chance that the grade falls below the pass mark, 0-1",
    "missed_probability": "chance that an assignment is missed, 0-1",
    "driver": "what contributes most to it",
    "owner": "who should act",
    "action": "what should be done",
    "rank": "place among the student's actions; 1 is the first",
    "timing": "when the action should be taken",
    "evidence": "why the action is thought to help",
    "planned_on": "day for which the action is planned; null if it is not planned",
    "left_out": "why the action is left out; empty if it is not",
    "kind": "kind of the anomaly",
    "observed": "value that was seen",
    "expected": "value that was expected",
    "low": "lower end of what was expected",
    "high": "upper end of what was expected",
    "p": "chance of such a value if nothing is wrong, 0-1",
    "p_adjusted": "p, adjusted for the number of students and values compared",
    "says": "description of the anomaly",
}


def _table(
    name: str, key: Collection[str], columns: dict[str, Any], nullable: str = ""
) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        sa.Column("section_id", sa.Text, primary_key=True),
        sa.Column("as_of", sa.Date, primary_key=True),
        sa.Column("student_id", sa.Text, primary_key=True),
        *(
            sa.Column(
                column,
                kind,
                primary_key=column in key,
                nullable=column in nullable.split(),
                comment=_MEANINGS.get(column),
            )
            for column, kind in columns.items()
        ),
        sa.Column("course_id", sa.Text, nullable=False),
        # From the first day of a section it is known what was planned for a student.
        info=TablePolicy(
            "early_warning",
            personal=("student_id",),
            time="as_of",
            days=800,
            newest=("section_id",),
        ).info,
    )


risk_period = _table(
    "risk_period",
    ["start_week"],
    {
        "start_week": sa.BigInteger,
        "end_week": sa.BigInteger,
        "starts_on": sa.Date,
        "weeks_ahead": sa.BigInteger,
        "severity": sa.Double,
        "below_pass_probability": sa.Double,
        "missed_probability": sa.Double,
        "driver": sa.Text,
    },
)
intervention = _table(
    "intervention",
    ["owner", "action"],
    {
        "owner": sa.Text,
        "action": sa.Text,
        "rank": sa.BigInteger,
        "driver": sa.Text,
        "timing": sa.Text,
        "evidence": sa.Text,
        "severity": sa.Double,
        "start_week": sa.BigInteger,
        "planned_on": sa.Date,
        "left_out": sa.Text,
    },
    nullable="planned_on",
)
anomaly = _table(
    "anomaly",
    ["kind", "assignment_id"],
    {
        "kind": sa.Text,
        "assignment_id": sa.Text,
        "observed": sa.Double,
        "expected": sa.Double,
        "low": sa.Double,
        "high": sa.Double,
        "p": sa.Double,
        "p_adjusted": sa.Double,
        "says": sa.Text,
    },
    nullable="low high",
)
