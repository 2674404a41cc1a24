"""The package's tables: attributions, advice, importance and its references, paths, fairness."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from grade_ml.core.policy import TablePolicy

metadata = sa.MetaData(schema="explanations")
# Explanations of a student are read for the newest day; older days document what was explained
# earlier in the same term. Measures of a course are compared over two years.

attribution = sa.Table(
    "attribution",
    metadata,
    sa.Column("section_id", sa.Text, primary_key=True),
    sa.Column("student_id", sa.Text, primary_key=True),
    sa.Column(
        "as_of",
        sa.Date,
        primary_key=True,
        comment="day of the features: the prediction used nothing later",
    ),
    sa.Column("course_id", sa.Text, nullable=False),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("model_version", sa.Integer, nullable=False),
    sa.Column(
        "features_hash", sa.Text, nullable=False, comment="hash of the features that the model read"
    ),
    sa.Column(
        "grade",
        JSONB,
        comment="base value and contributions to the grade, in points; null: no grade is predicted",
    ),
    sa.Column(
        "risk",
        JSONB,
        nullable=False,
        comment="base value and contributions to the risk, in log-odds",
    ),
    sa.Column(
        "feature_values", JSONB, nullable=False, comment="feature -> value that the model read"
    ),
    sa.Column(
        "grade_error",
        sa.Double,
        comment="distance of the sum of contributions from the predicted grade, points",
    ),
    sa.Column(
        "risk_error",
        sa.Double,
        nullable=False,
        comment="distance of the sum of contributions from the predicted risk, log-odds",
    ),
    sa.Column("degraded", JSONB, nullable=False, server_default=sa.text("'[]'")),
    info=TablePolicy(
        "explanations", personal=("student_id",), time="as_of", days=200, newest=("section_id",)
    ).info,
)
advice = sa.Table(
    "advice",
    metadata,
    sa.Column("section_id", sa.Text, primary_key=True),
    sa.Column("student_id", sa.Text, primary_key=True),
    sa.Column(
        "as_of",
        sa.Date,
        primary_key=True,
        comment="day of the features: the prediction used nothing later",
    ),
    sa.Column("kind", sa.Text, primary_key=True, comment="second_opinion, what_if or narrative"),
    sa.Column("course_id", sa.Text, nullable=False),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("model_version", sa.Integer, nullable=False),
    sa.Column(
        "features_hash",
        sa.Text,
        nullable=False,
        comment="hash of the features of the explanation that it belongs to",
    ),
    sa.Column("body", JSONB, nullable=False),
    info=TablePolicy(
        "explanations",
        personal=("student_id", "body"),
        time="as_of",
        days=200,
        newest=("section_id",),
    ).info,
)
reference = sa.Table(
    "reference",
    metadata,
    sa.Column("model_name", sa.Text, primary_key=True),
    sa.Column("model_version", sa.Integer, primary_key=True),
    sa.Column(
        "course_id",
        sa.Text,
        primary_key=True,
        comment="id of the course; empty: all courses together",
    ),
    sa.Column("phase", sa.Text, primary_key=True, comment="stage of the section"),
    sa.Column("task", sa.Text, primary_key=True, comment="grade or risk"),
    sa.Column("feature", sa.Text, primary_key=True, comment="name of the feature"),
    sa.Column(
        "share", sa.Double, nullable=False, comment="share of the importance of all features, 0-1"
    ),
    sa.Column(
        "spread",
        sa.Double,
        nullable=False,
        comment="standard deviation of the share when the model is trained again",
    ),
    # A version's rows go when the version does.
    info=TablePolicy("explanations").info,
)
importance = sa.Table(
    "importance",
    metadata,
    sa.Column(
        "course_id",
        sa.Text,
        primary_key=True,
        comment="id of the course; empty: all courses together",
    ),
    sa.Column("as_of", sa.Date, primary_key=True),
    sa.Column("task", sa.Text, primary_key=True, comment="grade or risk"),
    sa.Column(
        "grouping",
        sa.Text,
        primary_key=True,
        comment="attribute by which students are grouped; empty: all students",
    ),
    sa.Column(
        "group_name",
        sa.Text,
        primary_key=True,
        comment="value of the attribute; empty: all students",
    ),
    sa.Column("feature", sa.Text, primary_key=True, comment="name of the feature"),
    sa.Column(
        "model", sa.Text, nullable=False, comment="model that was explained, with its version"
    ),
    sa.Column(
        "students", sa.Integer, nullable=False, comment="students whose contributions were averaged"
    ),
    sa.Column("importance", sa.Double, nullable=False, comment="mean absolute contribution"),
    sa.Column(
        "low", sa.Double, nullable=False, comment="lower end of the interval of the importance"
    ),
    sa.Column(
        "high", sa.Double, nullable=False, comment="upper end of the interval of the importance"
    ),
    sa.Column(
        "share", sa.Double, nullable=False, comment="share of the importance of all features, 0-1"
    ),
    sa.Column(
        "band_low", sa.Double, comment="lower end of the band in which the share usually lies"
    ),
    sa.Column(
        "band_high", sa.Double, comment="upper end of the band in which the share usually lies"
    ),
    sa.Column("alarm", sa.Boolean, nullable=False, comment="whether the share left its band"),
    info=TablePolicy("explanations", time="as_of", days=800, newest=("course_id",)).info,
)
decision_path = sa.Table(
    "decision_path",
    metadata,
    sa.Column("section_id", sa.Text, primary_key=True),
    sa.Column("student_id", sa.Text, primary_key=True),
    sa.Column("as_of", sa.Date, primary_key=True),
    sa.Column(
        "tree", sa.Text, primary_key=True, comment="surrogate, or the name of the ensemble's member"
    ),
    sa.Column("course_id", sa.Text, nullable=False),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("model_version", sa.Integer, nullable=False),
    sa.Column(
        "features_hash", sa.Text, nullable=False, comment="hash of the features that the model read"
    ),
    sa.Column("body", JSONB, nullable=False),
    info=TablePolicy(
        "explanations", personal=("student_id",), time="as_of", days=200, newest=("section_id",)
    ).info,
)
fairness = sa.Table(
    "fairness",
    metadata,
    sa.Column("as_of", sa.Date, primary_key=True),
    sa.Column(
        "attribute", sa.Text, primary_key=True, comment="attribute by which students are grouped"
    ),
    sa.Column("group_name", sa.Text, primary_key=True, comment="value of the attribute"),
    sa.Column("metric", sa.Text, primary_key=True, comment="measure that is compared, such as mae"),
    sa.Column("model", sa.Text, nullable=False, comment="model that was judged, with its version"),
    sa.Column("students", sa.Integer, nullable=False, comment="students of the group"),
    sa.Column("value", sa.Double, nullable=False, comment="value of the measure in the group"),
    sa.Column("low", sa.Double, nullable=False, comment="lower end of the interval of the value"),
    sa.Column("high", sa.Double, nullable=False, comment="upper end of the interval of the value"),
    sa.Column("gap", sa.Double, nullable=False, comment="difference to all other students"),
    sa.Column("gap_low", sa.Double, nullable=False, comment="lower end of the interval of the gap"),
    sa.Column(
        "gap_high", sa.Double, nullable=False, comment="upper end of the interval of the gap"
    ),
    sa.Column("most", sa.Double, comment="largest gap that is allowed; null: no limit"),
    sa.Column(
        "exceeds",
        sa.Boolean,
        nullable=False,
        comment="whether the gap is significantly larger than allowed",
    ),
    info=TablePolicy("explanations", time="as_of", days=800, newest=("attribute",)).info,
)
