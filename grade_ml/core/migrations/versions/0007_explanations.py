"""Explanations of predictions, importance over time, decision paths and group fairness."""

from alembic import op

revision = "0007"
down_revision = "0006"

STATEMENTS = """
create schema explanations;
create table explanations.attribution (
    section_id text,
    student_id text,
    as_of date,
    course_id text not null,
    model_name text not null,
    model_version integer not null,
    features_hash text not null,
    grade jsonb,
    risk jsonb not null,
    feature_values jsonb not null,
    grade_error double precision,
    risk_error double precision not null,
    degraded jsonb not null default '[]',
    primary key (section_id, student_id, as_of)
);
create index attribution_by_course on explanations.attribution (course_id, as_of);
create table explanations.reference (
    model_name text,
    model_version integer,
    course_id text,
    phase text,
    task text,
    feature text,
    share double precision not null,
    spread double precision not null,
    primary key (model_name, model_version, course_id, phase, task, feature)
);
create table explanations.importance (
    course_id text,
    as_of date,
    task text constraint importance_task check (task in ('grade', 'risk')),
    grouping text,
    group_name text,
    feature text,
    model text not null,
    students integer not null,
    importance double precision not null,
    low double precision not null,
    high double precision not null,
    share double precision not null,
    band_low double precision,
    band_high double precision,
    alarm boolean not null,
    primary key (course_id, as_of, task, grouping, group_name, feature)
);
create table explanations.decision_path (
    section_id text,
    student_id text,
    as_of date,
    tree text,
    course_id text not null,
    model_name text not null,
    model_version integer not null,
    features_hash text not null,
    body jsonb not null,
    primary key (section_id, student_id, as_of, tree)
);
create index decision_path_by_course on explanations.decision_path (course_id, as_of);
create table explanations.advice (
    section_id text,
    student_id text,
    as_of date,
    kind text constraint advice_kind check (kind in ('second_opinion', 'what_if', 'narrative')),
    course_id text not null,
    model_name text not null,
    model_version integer not null,
    features_hash text not null,
    body jsonb not null,
    primary key (section_id, student_id, as_of, kind)
);
create index advice_by_course on explanations.advice (course_id, as_of);
create table explanations.fairness (
    as_of date,
    attribute text,
    group_name text,
    metric text,
    model text not null,
    students integer not null,
    value double precision not null,
    low double precision not null,
    high double precision not null,
    gap double precision not null,
    gap_low double precision not null,
    gap_high double precision not null,
    most double precision,
    exceeds boolean not null,
    primary key (as_of, attribute, group_name, metric)
);
"""


def upgrade() -> None:
    """Create the schema."""
    op.execute(STATEMENTS)
