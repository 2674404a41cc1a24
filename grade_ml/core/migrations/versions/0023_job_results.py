"""The results of jobs, which stood in Dagster's event log alone."""

from alembic import op

revision = "0023"
down_revision = "0022"

STATEMENTS = """
create schema if not exists maintenance;
create table maintenance.job_result (
    run_id text primary key,
    job text not null,
    courses integer,
    launched_by text not null,
    task text,
    part_of text,
    status text not null,
    retried boolean not null,
    started_at timestamptz,
    ended_at timestamptz not null,
    seconds double precision,
    counts jsonb not null,
    degraded jsonb not null,
    error text,
    peak_rss_mb double precision,
    cpu_seconds double precision
);
create index job_result_by_end on maintenance.job_result (ended_at);
create index job_result_by_job on maintenance.job_result (job, ended_at);
create index job_result_by_task on maintenance.job_result (task) where task is not null;
create index job_result_by_whole on maintenance.job_result (part_of) where part_of is not null;
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(STATEMENTS)
