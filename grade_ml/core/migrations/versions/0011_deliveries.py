"""What the inbox has loaded, and up to when each endpoint of a OneRoster server was read."""

from alembic import op

revision = "0011"
down_revision = "0010"

STATEMENTS = """
create table gradebook.delivery (
    id bigint generated always as identity primary key,
    name text not null,
    source text not null,
    files jsonb not null,
    dates jsonb not null,
    loaded_at timestamptz not null,
    moved_at timestamptz
);
create index on gradebook.delivery (source);
create table gradebook.oneroster_sync (
    url text,
    endpoint text,
    read_at timestamptz not null,
    bulk_at timestamptz not null,
    primary key (url, endpoint)
);
"""


def upgrade() -> None:
    """Make the tables."""
    op.execute(STATEMENTS)
