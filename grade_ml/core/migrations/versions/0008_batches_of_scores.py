"""Rows of the error streams are batches of an assignment's scores; they are computed anew."""

from alembic import op

revision = "0008"
down_revision = "0007"

STATEMENTS = """
truncate monitoring.matured_error;
alter table monitoring.matured_error drop constraint matured_error_pkey;
alter table monitoring.matured_error add column batch integer not null;
alter table monitoring.matured_error add primary key (section_id, assignment_id, batch);
"""


def upgrade() -> None:
    """Change the table."""
    op.execute(STATEMENTS)
