"""Which records a stored prediction knows, so that it answers until they change; its naive rate."""

from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Add the columns; what was predicted before is of unknown origin, and is computed anew."""
    op.execute(
        "alter table ensemble.grade_prediction "
        "add column naive double precision, add column origin text"
    )
