"""Rename the key `pieces` of stored what-ifs to `assignments`."""

from alembic import op

revision = "0020"
down_revision = "0019"

# Within a text, a quotation mark follows a backslash, so no words are changed.
STATEMENT = """
update explanations.advice
set body = replace(body::text, '"pieces": [', '"assignments": [')::jsonb
where kind = 'what_if'
"""


def upgrade() -> None:
    """Rename the key in what is stored."""
    op.execute(STATEMENT)
