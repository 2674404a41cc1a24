"""The tables of the schema `forecasts`: forecasts by day, the outcome of each run, and the models.

The tables of risk periods, interventions and anomalies, in the same schema, are those of the
package `early_warning`. The migrations create all.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from grade_ml.core.policy import TablePolicy

metadata = sa.MetaData(schema="forecasts")


#: The newest day is what is read; the others hold what was forecast earlier in the same term. With
#: a row for each remaining score and nightly run, these are the largest tables.
_POLICY = TablePolicy(
    "forecasting", personal=("student_id",), time="as_of", days=200, newest=("section_id",)
)


def _number(name: str, comment: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=False, comment=comment)


assignment_forecast = sa.Table(
    "assignment_forecast",
    metadata,
    sa.Column("section_id", sa.Text, primary_key=True),
    sa.Column("student_id", sa.Text, primary_key=True),
    sa.Column("assignment_id", sa.Text, primary_key=True),
    sa.Column("as_of", sa.Date, primary_key=True),
    sa.Column("course_id", sa.Text, nullable=False),
    sa.Column(
        "horizon",
        sa.BigInteger,
        nullable=False,
        comment="place among the remaining assignments by due date; 1 is the next",
    ),
    _number("due_day", "due day, in days since the section's start"),
    _number("weight", "share of the final grade, 0-100"),
    _number("mean", "expected score, 0-100; a missed assignment counts 0"),
    _number("median", "median of the predicted score, 0-100"),
    _number("submit_probability", "chance that the student hands it in, 0-1"),
    _number("low80", "lower end of the 80% interval"),
    _number("high80", "upper end of the 80% interval"),
    _number("low95", "lower end of the 95% interval"),
    _number("high95", "upper end of the 95% interval"),
    sa.Column(
        "method",
        sa.Text,
        nullable=False,
        comment="forecaster with the largest weight in the combination",
    ),
    info=_POLICY.info,
)
activity_forecast = sa.Table(
    "activity_forecast",
    metadata,
    sa.Column("section_id", sa.Text, primary_key=True),
    sa.Column("student_id", sa.Text, primary_key=True),
    sa.Column(
        "week", sa.BigInteger, primary_key=True, comment="week of the section; 1 is its first"
    ),
    sa.Column("as_of", sa.Date, primary_key=True),
    sa.Column("course_id", sa.Text, nullable=False),
    _number("mean", "expected actions in the week"),
    _number("low80", "lower end of the 80% interval"),
    _number("high80", "upper end of the 80% interval"),
    info=_POLICY.info,
)
course_run = sa.Table(
    "course_run",
    metadata,
    sa.Column("course_id", sa.Text, primary_key=True),
    sa.Column("as_of", sa.Date, primary_key=True),
    sa.Column("model_version", sa.Integer, nullable=False),
    sa.Column("forecasts", sa.Integer, nullable=False, comment="number of forecast scores"),
    sa.Column(
        "fallbacks",
        JSONB,
        nullable=False,
        comment="how often a simpler forecaster stood in, by reason, in the whole run",
    ),
    sa.Column(
        "nothing", sa.Text, nullable=False, comment="why the course has no forecasts; empty: it has"
    ),
    sa.Column("degraded", JSONB, nullable=False),
    sa.Column("origin", sa.Text, comment="identifies the records that were used; null: unknown"),
    info=TablePolicy("forecasting", time="as_of", days=200, newest=("course_id",)).info,
)
trajectory_model = sa.Table(
    "trajectory_model",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column(
        "as_of",
        sa.Date,
        nullable=False,
        comment="day by which every section it was fitted on had ended",
    ),
    sa.Column("sections", JSONB, nullable=False, comment="section -> hash of its records"),
    sa.Column(
        "accepted", sa.Boolean, nullable=False, comment="whether its checks allow it to serve"
    ),
    # A version's row goes when the version does.
    info=TablePolicy("training", time="as_of").info,
)
