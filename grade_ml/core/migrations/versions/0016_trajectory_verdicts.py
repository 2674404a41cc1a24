"""Whether a trajectory model may serve; those of the time before its gate did."""

from alembic import op

revision = "0016"
down_revision = "0015"

STATEMENTS = """
alter table forecasts.trajectory_model add column accepted boolean not null default true;
alter table forecasts.trajectory_model alter column accepted drop default;
"""


def upgrade() -> None:
    """Add the column; every model there is may go on serving."""
    op.execute(STATEMENTS)
