"""How the installation was, hour by hour."""

from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    """Create the table."""
    op.execute(
        "create table maintenance.system_health ("
        "as_of timestamptz primary key, score double precision, parts jsonb not null)"
    )
