"""Forecasts of scores and of activity by day, what each run said of them, and the models."""

from alembic import op

revision = "0006"
down_revision = "0005"

STATEMENTS = """
create schema forecasts;
create table forecasts.assignment_forecast (
    section_id text,
    student_id text,
    assignment_id text,
    as_of date,
    course_id text not null,
    horizon bigint not null,
    due_day double precision not null,
    weight double precision not null,
    mean double precision not null,
    median double precision not null,
    submit_probability double precision not null,
    low80 double precision not null,
    high80 double precision not null,
    low95 double precision not null,
    high95 double precision not null,
    method text not null,
    primary key (section_id, as_of, student_id, assignment_id)
);
create index assignment_forecast_by_course on forecasts.assignment_forecast (course_id, as_of);
create index assignment_forecast_by_student on forecasts.assignment_forecast (student_id, as_of);
create table forecasts.activity_forecast (
    section_id text,
    student_id text,
    week bigint,
    as_of date,
    course_id text not null,
    mean double precision not null,
    low80 double precision not null,
    high80 double precision not null,
    primary key (section_id, as_of, student_id, week)
);
create index activity_forecast_by_course on forecasts.activity_forecast (course_id, as_of);
create table forecasts.course_run (
    course_id text,
    as_of date,
    model_version integer not null,
    forecasts integer not null,
    fallbacks jsonb not null,
    nothing text not null,
    degraded jsonb not null,
    primary key (course_id, as_of)
);
create table forecasts.trajectory_model (
    version integer primary key,
    as_of date not null,
    sections jsonb not null
);
create table forecasts.risk_period (
    section_id text,
    as_of date,
    student_id text,
    start_week bigint,
    course_id text not null,
    end_week bigint not null,
    starts_on date not null,
    weeks_ahead bigint not null,
    severity double precision not null,
    below_pass_probability double precision not null,
    missed_probability double precision not null,
    driver text not null,
    primary key (section_id, as_of, student_id, start_week)
);
create index risk_period_by_course on forecasts.risk_period (course_id, as_of);
create table forecasts.intervention (
    section_id text,
    as_of date,
    student_id text,
    owner text,
    action text,
    course_id text not null,
    rank bigint not null,
    driver text not null,
    timing text not null,
    evidence text not null,
    severity double precision not null,
    start_week bigint not null,
    planned_on date,
    left_out text not null,
    primary key (section_id, as_of, student_id, owner, action)
);
create index intervention_by_course on forecasts.intervention (course_id, as_of);
create table forecasts.anomaly (
    section_id text,
    as_of date,
    student_id text,
    kind text,
    assignment_id text,
    course_id text not null,
    observed double precision not null,
    expected double precision not null,
    low double precision,
    high double precision,
    p double precision not null,
    p_adjusted double precision not null,
    says text not null,
    primary key (section_id, as_of, student_id, kind, assignment_id)
);
create index anomaly_by_course on forecasts.anomaly (course_id, as_of);
"""


def upgrade() -> None:
    """Create the schema."""
    op.execute(STATEMENTS)
