"""Experiments: their plans, what happened to them, assignments, exposures, looks, allocations."""

from alembic import op

revision = "0018"
down_revision = "0017"

STATEMENTS = """
create schema experiments;
create table experiments.experiment (
    experiment_id text primary key,
    kind text not null,
    subject text not null,
    plan jsonb not null,
    created_at timestamptz not null
);
create table experiments.event (
    id bigint generated always as identity primary key,
    experiment_id text not null references experiments.experiment,
    kind text not null,
    at timestamptz not null,
    by text not null,
    reason text not null,
    decision text,
    figures jsonb not null,
    constraint event_once unique (experiment_id, kind)
);
create table experiments.assignment (
    experiment_id text references experiments.experiment,
    student_id text,
    arm text not null,
    stratum text not null,
    probability double precision not null,
    assigned_on date not null,
    primary key (experiment_id, student_id)
);
create index assignment_by_student on experiments.assignment (student_id);
create table experiments.exposure (
    experiment_id text references experiments.experiment,
    student_id text,
    on_day date,
    arm text not null,
    primary key (experiment_id, student_id, on_day, arm)
);
create index exposure_by_student on experiments.exposure (student_id);
create table experiments.look (
    experiment_id text references experiments.experiment,
    data_version text,
    as_of date not null,
    looked_at timestamptz not null,
    units bigint not null,
    labels bigint not null,
    fraction double precision,
    difference double precision,
    low double precision,
    high double precision,
    z double precision,
    bound double precision,
    decision text not null,
    reason text not null,
    figures jsonb not null,
    segments jsonb not null,
    primary key (experiment_id, data_version)
);
create table experiments.allocation (
    experiment_id text references experiments.experiment,
    as_of date,
    arm text,
    probability double precision not null,
    state jsonb not null,
    primary key (experiment_id, as_of, arm)
);
"""


def upgrade() -> None:
    """Create the schema."""
    op.execute(STATEMENTS)
