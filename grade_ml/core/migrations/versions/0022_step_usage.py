"""What each step of a run used of the machine."""

from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    """Create the schema `maintenance` and its first table; nothing is known of earlier runs."""
    op.execute("create schema if not exists maintenance")
    op.execute(
        """
        create table maintenance.step_usage (
            run_id text not null,
            step text not null,
            started_at timestamptz not null,
            seconds double precision not null,
            peak_rss_mb double precision not null,
            cpu_seconds double precision not null,
            primary key (run_id, step)
        )
        """
    )
    op.execute("create index on maintenance.step_usage (started_at)")
