"""Which optional libraries the installation has had."""

from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    """Create the table."""
    op.execute(
        "create table maintenance.library (name text primary key, seen_at timestamptz not null)"
    )
