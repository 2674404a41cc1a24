"""Stored predictions of the final grade and of the risk."""

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS = """
create schema ensemble;
create table ensemble.grade_prediction (
    section_id text,
    student_id text,
    as_of date,
    model_name text,
    model_version integer not null,
    grade double precision,
    lower80 double precision,
    upper80 double precision,
    lower95 double precision,
    upper95 double precision,
    risk double precision,
    degraded jsonb not null default '[]',
    primary key (section_id, student_id, as_of, model_name),
    constraint grade_in_range check (grade between 0 and 100),
    constraint risk_in_range check (risk between 0 and 1)
);
"""


def upgrade() -> None:
    """Create the schema."""
    op.execute(STATEMENTS)
