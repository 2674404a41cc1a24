"""What a course's last training was told of changed scores, which stood in a text of its data."""

from alembic import op

revision = "0017"
down_revision = "0016"

STATEMENTS = r"""
alter table ensemble.course_training
    add column changed_on date,
    add column changed_share double precision;
update ensemble.course_training set
    changed_on = substring(data_version from '@(\d{4}-\d\d-\d\d)')::date,
    changed_share = substring(data_version from '@\d{4}-\d\d-\d\d(.+)$')::double precision,
    data_version = split_part(data_version, '@', 1)
where data_version like '%@%';
"""


def upgrade() -> None:
    """Add the columns and fill them from the text."""
    op.execute(STATEMENTS)
