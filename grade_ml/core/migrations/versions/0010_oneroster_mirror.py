"""What a OneRoster source says, row by row, in typed tables in place of one of all kinds."""

from alembic import op

revision = "0010"
down_revision = "0009"

STATEMENTS = """
create table gradebook.oneroster_session (
    sourced_id text primary key,
    modified timestamp,
    title text,
    type text,
    starts_on date,
    ends_on date,
    parent text
);
create table gradebook.oneroster_class (
    sourced_id text primary key,
    modified timestamp,
    course_id text,
    sessions text
);
create table gradebook.oneroster_system (
    class_id text primary key,
    system text not null
);
create table gradebook.oneroster_category (
    sourced_id text primary key,
    modified timestamp,
    title text,
    weight double precision
);
create table gradebook.oneroster_line_item (
    sourced_id text primary key,
    modified timestamp,
    section_id text not null,
    category_id text,
    title text,
    due_on date,
    min_score double precision not null,
    max_score double precision not null,
    weight double precision,
    extra_credit boolean,
    scale text
);
create table gradebook.oneroster_score_scale (
    sourced_id text primary key,
    modified timestamp,
    section_id text,
    entries text not null
);
create table gradebook.oneroster_line_item_scale (
    sourced_id text primary key,
    modified timestamp,
    assignment_id text,
    scale text
);
create table gradebook.oneroster_result_scale (
    sourced_id text primary key,
    modified timestamp,
    result_id text,
    scale text
);
create table gradebook.oneroster_enrollment (
    sourced_id text primary key,
    modified timestamp,
    section_id text not null,
    student_id text not null,
    begins_on date,
    ends_on date
);
create index on gradebook.oneroster_enrollment (section_id, student_id);
create table gradebook.oneroster_result (
    sourced_id text primary key,
    modified timestamp,
    assignment_id text not null,
    student_id text not null,
    status text not null,
    points double precision,
    words text,
    scale text,
    dated_on date,
    late boolean
);
create index on gradebook.oneroster_result (assignment_id, student_id);
create index on gradebook.oneroster_result (words) where words is not null;
create table gradebook.oneroster_text (
    text text primary key,
    per_cent double precision not null
);
insert into gradebook.oneroster_session (sourced_id, title, type, starts_on, ends_on, parent)
select sourced_id, fields ->> 'title', fields ->> 'type', (fields ->> 'starts_on')::date,
    (fields ->> 'ends_on')::date, fields ->> 'parent'
from gradebook.oneroster_row where file = 'academicSessions';
insert into gradebook.oneroster_category (sourced_id, title, weight)
select sourced_id, fields ->> 'title', (fields ->> 'weight')::double precision
from gradebook.oneroster_row where file = 'categories';
insert into gradebook.oneroster_line_item
    (sourced_id, section_id, category_id, title, due_on, min_score, max_score, weight)
select sourced_id, fields ->> 'section_id', fields ->> 'category_id', fields ->> 'title',
    (fields ->> 'due_on')::date, (fields ->> 'min_score')::double precision,
    (fields ->> 'max_score')::double precision, (fields ->> 'weight')::double precision
from gradebook.oneroster_row where file = 'lineItems' and fields ->> 'section_id' is not null;
drop table gradebook.oneroster_row;
"""


def upgrade() -> None:
    """Change the tables."""
    op.execute(STATEMENTS)
