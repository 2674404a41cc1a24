"""Predictions of champion and challenger, promotions, and what came of each course's training."""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = """
alter table ensemble.grade_prediction add column stage text not null default 'champion';
delete from ensemble.grade_prediction a using ensemble.grade_prediction b
where (a.section_id, a.student_id, a.as_of) = (b.section_id, b.student_id, b.as_of)
  and a.model_name > b.model_name;
alter table ensemble.grade_prediction drop constraint grade_prediction_pkey;
alter table ensemble.grade_prediction add primary key (section_id, student_id, as_of, stage);
alter table ensemble.grade_prediction
    add constraint stage_known check (stage in ('champion', 'challenger'));

create table ensemble.course_training (
    course_id text primary key,
    data_version text not null,
    code_version text not null,
    kept boolean not null,
    reason text not null,
    trained_at timestamptz not null
);

create schema registry;
create table registry.promotion (
    id bigint generated always as identity primary key,
    model_name text not null,
    from_version integer,
    to_version integer not null,
    decided_at timestamptz not null,
    reason text not null,
    improvement double precision,
    low double precision,
    high double precision,
    row_count integer,
    student_count integer
);
"""


def upgrade() -> None:
    """Create the tables."""
    op.execute(STATEMENTS)
