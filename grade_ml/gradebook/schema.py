"""The gradebook's tables (terms follow OneRoster 1.2), as SQLAlchemy Core metadata.

The migrations create these tables; this module defines what the code may rely on.
"""

from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from grade_ml.core.policy import TablePolicy

SCHEMA = "gradebook"
metadata = sa.MetaData(schema=SCHEMA)


class Outcome(StrEnum):
    """How an enrollment ended; a running enrollment has no outcome."""

    PASS = "pass"
    FAIL = "fail"
    DISTINCTION = "distinction"
    WITHDRAWN = "withdrawn"


class Status(StrEnum):
    """The status of a result."""

    GRADED = "graded"
    """It has a score; a missing score could not be read and is unknown."""
    SUBMITTED = "submitted"
    """It was handed in and waits for its score."""
    MISSING = "missing"
    """It was not handed in and counts 0."""
    EXEMPT = "exempt"
    """It does not count for this student, neither as due nor as missed."""
    INCOMPLETE = "incomplete"
    """Its score is provisional; until it is final the grade is unknown."""


class GradingPolicy(StrEnum):
    """How the assignments of a section make the final grade; extra credit is added on top."""

    POINTS = "points"
    """Points earned of points possible; an assignment's weight is its maximum."""
    CATEGORIES = "categories"
    """The weight of each category, shared by those of its assignments that count for a student."""
    WEIGHTS = "weights"
    """The weight of each assignment; equal weights where all are 0."""
    EQUAL = "equal"
    """Every assignment counts the same."""


#: Scores above this many per cent are typing errors; extra credit stays below.
HIGHEST_SCORE = 200

#: The category of final exams, compared without regard to case (see `outcomes`).
EXAM_CATEGORY = "exam"

student = sa.Table(
    "student",
    metadata,
    sa.Column("student_id", sa.Text, primary_key=True),
    sa.Column(
        "attributes",
        JSONB,
        nullable=False,
        server_default=sa.text("'{}'"),
        comment="what the source knows of the student, by name",
    ),
    info=TablePolicy("gradebook", personal=("student_id", "attributes")).info,
)
term = sa.Table(
    "term",
    metadata,
    sa.Column("term_id", sa.Text, primary_key=True),
    sa.Column("title", sa.Text, comment="as people call the term"),
    sa.Column("starts_on", sa.Date, nullable=False),
    sa.Column("ends_on", sa.Date, nullable=False),
    sa.CheckConstraint("starts_on <= ends_on", name="term_dates_in_order"),
    info=TablePolicy("gradebook", time="ends_on").info,
)
course = sa.Table(
    "course",
    metadata,
    sa.Column("course_id", sa.Text, primary_key=True),
    sa.Column("title", sa.Text, comment="as people call the course"),
    sa.Column("subject", sa.Text, comment="field of study; null: not stated"),
    info=TablePolicy("gradebook").info,
)
section = sa.Table(
    "section",
    metadata,
    sa.Column("section_id", sa.Text, primary_key=True),
    sa.Column("course_id", sa.Text, sa.ForeignKey(course.c.course_id), nullable=False),
    sa.Column("term_id", sa.Text, sa.ForeignKey(term.c.term_id), nullable=False),
    sa.Column("starts_on", sa.Date, nullable=False),
    sa.Column("ends_on", sa.Date, nullable=False),
    sa.Column(
        "grading_policy",
        sa.Text,
        nullable=False,
        server_default=GradingPolicy.WEIGHTS,
        comment="how scores become the final grade: points, categories, weights or equal",
    ),
    sa.CheckConstraint("starts_on <= ends_on", name="section_dates_in_order"),
    sa.CheckConstraint(
        "grading_policy in ('points', 'categories', 'weights', 'equal')",
        name="section_grading_policy",
    ),
    info=TablePolicy("gradebook", time="ends_on").info,
)
enrollment = sa.Table(
    "enrollment",
    metadata,
    sa.Column("section_id", sa.Text, sa.ForeignKey(section.c.section_id), primary_key=True),
    sa.Column("student_id", sa.Text, sa.ForeignKey(student.c.student_id), primary_key=True),
    sa.Column("enrolled_on", sa.Date, comment="null: enrolled at an unknown date before the start"),
    sa.Column("withdrawn_on", sa.Date, comment="day of the withdrawal; null: has not withdrawn"),
    sa.Column(
        "outcome",
        sa.Text,
        comment="pass, fail, distinction or withdrawn; null: running, or not stated",
    ),
    sa.Column(
        "attributes",
        JSONB,
        nullable=False,
        server_default=sa.text("'{}'"),
        comment="what the source knows of the student in this section, by name",
    ),
    sa.CheckConstraint(
        "outcome in ('pass', 'fail', 'distinction', 'withdrawn')", name="enrollment_outcome"
    ),
    info=TablePolicy(
        "gradebook", personal=("student_id", "outcome", "attributes"), time="enrolled_on"
    ).info,
)
assignment = sa.Table(
    "assignment",
    metadata,
    sa.Column("assignment_id", sa.Text, primary_key=True),
    sa.Column("section_id", sa.Text, sa.ForeignKey(section.c.section_id), nullable=False),
    sa.Column(
        "category", sa.Text, nullable=False, comment="kind of assignment, such as TMA or Exam"
    ),
    sa.Column("title", sa.Text, comment="as people call the assignment"),
    sa.Column("due_on", sa.Date, comment="null: at the end of the section"),
    sa.Column(
        "weight",
        sa.Double,
        nullable=False,
        comment="share of the final grade, in the unit of the section's grading policy",
    ),
    sa.Column("max_score", sa.Double, nullable=False, comment="points that can be reached"),
    sa.Column(
        "extra_credit",
        sa.Boolean,
        nullable=False,
        server_default=sa.false(),
        comment="its points are added; it is never due and never missed",
    ),
    sa.CheckConstraint("weight >= 0", name="assignment_weight"),
    sa.CheckConstraint("max_score > 0", name="assignment_max_score"),
    info=TablePolicy("gradebook", time="due_on").info,
)
result = sa.Table(
    "result",
    metadata,
    sa.Column(
        "assignment_id", sa.Text, sa.ForeignKey(assignment.c.assignment_id), primary_key=True
    ),
    sa.Column("student_id", sa.Text, sa.ForeignKey(student.c.student_id), primary_key=True),
    sa.Column(
        "status",
        sa.Text,
        nullable=False,
        server_default=Status.GRADED,
        comment="graded, submitted, missing, exempt or incomplete",
    ),
    sa.Column(
        "score",
        sa.Double,
        comment="per cent of max_score, above 100 for extra credit; null: unknown or none",
    ),
    sa.Column("submitted_on", sa.Date, comment="null: not submitted, or unknown"),
    sa.Column("graded_on", sa.Date, comment="null: not graded, or unknown"),
    sa.Column("late", sa.Boolean, comment="as the source says; null: the dates tell"),
    sa.Column(
        "carried_over",
        sa.Boolean,
        nullable=False,
        server_default=sa.false(),
        comment="taken over from an earlier attempt at the course",
    ),
    sa.CheckConstraint("score between 0 and 200", name="result_score"),
    sa.CheckConstraint(
        "status in ('graded', 'submitted', 'missing', 'exempt', 'incomplete')",
        name="result_status",
    ),
    info=TablePolicy(
        "gradebook", personal=("student_id", "status", "score"), time="graded_on"
    ).info,
)
earlier_result = sa.Table(
    "earlier_result",
    metadata,
    sa.Column(
        "assignment_id", sa.Text, sa.ForeignKey(assignment.c.assignment_id), primary_key=True
    ),
    sa.Column("student_id", sa.Text, sa.ForeignKey(student.c.student_id), primary_key=True),
    sa.Column(
        "until",
        sa.Date,
        primary_key=True,
        comment="the day from which on a later result, or none, stands in its place",
    ),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("score", sa.Double),
    sa.Column("submitted_on", sa.Date),
    sa.Column("graded_on", sa.Date),
    sa.Column("late", sa.Boolean),
    info=TablePolicy("gradebook", personal=("student_id", "status", "score"), time="until").info,
)
activity = sa.Table(
    "activity",
    metadata,
    sa.Column("section_id", sa.Text, sa.ForeignKey(section.c.section_id), primary_key=True),
    sa.Column("student_id", sa.Text, sa.ForeignKey(student.c.student_id), primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True, comment="what was used, such as forum or quiz"),
    sa.Column("count", sa.BigInteger, nullable=False, comment="actions of this kind on this day"),
    sa.CheckConstraint("count >= 0", name="activity_count"),
    info=TablePolicy("gradebook", personal=("student_id", "count"), time="day").info,
)
quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("source", sa.Text, nullable=False, comment="kind of the source, as in load"),
    sa.Column("file", sa.Text, nullable=False),
    sa.Column(
        "row", sa.BigInteger, nullable=False, comment="line of the file; the header is line 1"
    ),
    sa.Column("column", sa.Text, nullable=False),
    sa.Column("value", sa.Text),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column(
        "seen_at",
        sa.DateTime(timezone=True),
        nullable=False,
        comment="when a delivery contained the row last",
    ),
    # A row that no delivery has any more stays for a term, in which a user may ask why a score
    # is missing.
    info=TablePolicy("gradebook", personal=("value",), time="seen_at", days=120).info,
)
load = sa.Table(
    "load",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column(
        "source",
        sa.Text,
        nullable=False,
        comment="kind of the source: oulad, oneroster, csv or simulated",
    ),
    sa.Column("loaded_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("rows_loaded", JSONB, nullable=False, comment="table -> rows inserted or updated"),
    sa.Column("rows_unchanged", JSONB, nullable=False),
    sa.Column("rows_removed", JSONB, nullable=False),
    sa.Column("rows_quarantined", sa.BigInteger, nullable=False),
    sa.Column("courses", JSONB, nullable=False, comment="ids of the courses that changed"),
    sa.Column("notes", JSONB, nullable=False, comment="notes of the load's summary"),
    info=TablePolicy("gradebook", time="loaded_at").info,
)
delivery = sa.Table(
    "delivery",
    metadata,
    sa.Column(
        "id",
        sa.BigInteger,
        sa.Identity(always=True),
        primary_key=True,
        comment="number of the delivery",
    ),
    sa.Column("name", sa.Text, nullable=False, comment="name of the file or folder in the inbox"),
    sa.Column(
        "source",
        sa.Text,
        nullable=False,
        comment="kind of the delivery, and the system that it names",
    ),
    sa.Column("files", JSONB, nullable=False, comment="path -> SHA-256"),
    sa.Column("dates", JSONB, nullable=False, comment="file -> date of its newest record"),
    sa.Column(
        "loaded_at", sa.DateTime(timezone=True), nullable=False, comment="when its rows were loaded"
    ),
    sa.Column("moved_at", sa.DateTime(timezone=True), comment="null: still in the inbox"),
    info=TablePolicy("gradebook", time="loaded_at").info,
)
oneroster_sync = sa.Table(
    "oneroster_sync",
    metadata,
    sa.Column("url", sa.Text, primary_key=True, comment="address of the OneRoster server"),
    sa.Column(
        "endpoint", sa.Text, primary_key=True, comment="collection of the server that was read"
    ),
    sa.Column("read_at", sa.DateTime(timezone=True), nullable=False, comment="start of the sync"),
    sa.Column(
        "bulk_at",
        sa.DateTime(timezone=True),
        nullable=False,
        comment="when all records were read last",
    ),
    info=TablePolicy("gradebook", time="read_at").info,
)

#: The eight tables in an order in which every reference points backwards.
TABLES = (student, term, course, section, enrollment, assignment, result, activity)
