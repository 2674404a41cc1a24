"""The newest day of predictions without reading all of them: what is current is asked often."""

from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    """Create the index."""
    op.execute("create index grade_prediction_by_day on ensemble.grade_prediction (as_of)")
