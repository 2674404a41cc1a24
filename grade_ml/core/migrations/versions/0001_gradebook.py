"""The gradebook's eight tables, its quarantine and its record of loads."""

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = """
create schema gradebook;
create table gradebook.student (
    student_id text primary key,
    attributes jsonb not null default '{}'
);
create table gradebook.term (
    term_id text primary key,
    title text,
    starts_on date not null,
    ends_on date not null,
    constraint term_dates_in_order check (starts_on <= ends_on)
);
create table gradebook.course (
    course_id text primary key,
    title text,
    subject text
);
create table gradebook.section (
    section_id text primary key,
    course_id text not null references gradebook.course,
    term_id text not null references gradebook.term,
    starts_on date not null,
    ends_on date not null,
    constraint section_dates_in_order check (starts_on <= ends_on)
);
create table gradebook.enrollment (
    section_id text references gradebook.section,
    student_id text references gradebook.student,
    enrolled_on date,
    withdrawn_on date,
    outcome text constraint enrollment_outcome
        check (outcome in ('pass', 'fail', 'distinction', 'withdrawn')),
    attributes jsonb not null default '{}',
    primary key (section_id, student_id)
);
create index enrollment_student on gradebook.enrollment (student_id);
create table gradebook.assignment (
    assignment_id text primary key,
    section_id text not null references gradebook.section,
    category text not null,
    title text,
    due_on date,
    weight double precision not null constraint assignment_weight check (weight >= 0),
    max_score double precision not null constraint assignment_max_score check (max_score > 0)
);
create index assignment_section on gradebook.assignment (section_id);
create table gradebook.result (
    assignment_id text references gradebook.assignment,
    student_id text references gradebook.student,
    score double precision constraint result_score check (score between 0 and 100),
    submitted_on date,
    graded_on date,
    carried_over boolean not null default false,
    primary key (assignment_id, student_id)
);
create table gradebook.activity (
    section_id text references gradebook.section,
    student_id text references gradebook.student,
    day date,
    kind text,
    count bigint not null constraint activity_count check (count >= 0),
    primary key (section_id, student_id, day, kind)
);
create table gradebook.quarantine (
    id bigint generated always as identity primary key,
    source text not null,
    file text not null,
    row bigint not null,
    "column" text not null,
    value text,
    reason text not null,
    seen_at timestamptz not null
);
create unique index quarantine_once
    on gradebook.quarantine (source, file, row, "column", md5(coalesce(value, '')), md5(reason));
create table gradebook.load (
    id bigint generated always as identity primary key,
    source text not null,
    loaded_at timestamptz not null,
    rows_loaded jsonb not null,
    rows_unchanged jsonb not null,
    rows_removed jsonb not null default '{}',
    rows_quarantined bigint not null
);
create table gradebook.oneroster_row (
    file text,
    sourced_id text,
    fields jsonb not null,
    primary key (file, sourced_id)
);
"""


def upgrade() -> None:
    """Create the schema."""
    op.execute(STATEMENTS)
