"""Which records a night's forecasts know, so that it can be said when newer ones came."""

from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    """Add the column; of what was forecast before, it is not known."""
    op.execute("alter table forecasts.course_run add column origin text")
