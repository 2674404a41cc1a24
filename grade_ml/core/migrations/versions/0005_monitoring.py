"""Reports by course and day, the matured rows of the error streams, and alerts."""

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = """
create schema monitoring;
create table monitoring.report (
    course_id text,
    as_of date,
    kind text constraint report_kind
        check (kind in ('drift', 'performance', 'concept', 'health')),
    body jsonb not null,
    primary key (course_id, as_of, kind)
);
create index report_by_day on monitoring.report (as_of, kind);
create table monitoring.matured_error (
    section_id text,
    assignment_id text,
    course_id text not null,
    matured_on date not null,
    scores integer not null,
    error double precision not null,
    z double precision not null,
    primary key (section_id, assignment_id)
);
create index matured_error_by_course on monitoring.matured_error (course_id, matured_on);
create table monitoring.alert (
    subject text,
    opened_at timestamptz,
    message text not null,
    recovered_at timestamptz,
    primary key (subject, opened_at)
);
create unique index alert_open on monitoring.alert (subject) where recovered_at is null;
"""


def upgrade() -> None:
    """Create the schema."""
    op.execute(STATEMENTS)
