"""External observations with their revisions, features by day, and the state of the HTTP client."""

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS = """
create schema external;
create table external.observation (
    source text,
    series text,
    place text,
    observed_on date,
    available_at timestamptz,
    fetched_at timestamptz not null,
    value double precision,
    unit text not null,
    primary key (source, series, place, observed_on, available_at)
);
create table external.feature (
    day date,
    place text,
    feature text,
    source text not null,
    value double precision,
    age_hours double precision,
    status text not null constraint feature_status
        check (status in ('observed', 'carried forward', 'not available')),
    reason text not null,
    primary key (day, place, feature)
);
create table external.collection (
    id bigint generated always as identity primary key,
    source text not null,
    first_day date not null,
    last_day date not null,
    collected_at timestamptz not null,
    rows_new bigint not null,
    requests bigint not null,
    problem text
);
create index collection_newest on external.collection (source, collected_at);
create table external.response (
    key text,
    accepted boolean,
    source text not null,
    url text not null,
    etag text,
    last_modified text,
    content_type text not null,
    fetched_at timestamptz not null,
    validated_at timestamptz not null,
    problem text,
    body bytea not null,
    primary key (key, accepted)
);
create table external.rate_limit (
    source text primary key,
    next_at timestamptz not null
);
"""


def upgrade() -> None:
    """Create the schema."""
    op.execute(STATEMENTS)
