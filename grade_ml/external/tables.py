"""The tables of the schema `external`, as SQLAlchemy Core metadata; the migrations create them."""

from enum import StrEnum

import sqlalchemy as sa

from grade_ml.core.policy import TablePolicy

metadata = sa.MetaData(schema="external")
_moment = sa.DateTime(timezone=True)


class Status(StrEnum):
    """What a feature's value is."""

    OBSERVED = "observed"
    """It is about that very day."""
    CARRIED_FORWARD = "carried forward"
    """It is about an earlier day, the newest that was known."""
    NOT_AVAILABLE = "not available"
    """There is none; the reason says why."""


observation = sa.Table(
    "observation",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("series", sa.Text, primary_key=True),
    sa.Column("place", sa.Text, primary_key=True),
    sa.Column("observed_on", sa.Date, primary_key=True),
    sa.Column("available_at", _moment, primary_key=True, comment="revisions differ only here"),
    sa.Column("fetched_at", _moment, nullable=False),
    sa.Column("value", sa.Double, comment="null: the provider says that it has none"),
    sa.Column("unit", sa.Text, nullable=False),
    info=TablePolicy("external", time="observed_on").info,
)
feature = sa.Table(
    "feature",
    metadata,
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("place", sa.Text, primary_key=True),
    sa.Column("feature", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("value", sa.Double),
    sa.Column("age_hours", sa.Double),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    info=TablePolicy("external", time="day").info,
)
collection = sa.Table(
    "collection",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("first_day", sa.Date, nullable=False),
    sa.Column("last_day", sa.Date, nullable=False),
    sa.Column("collected_at", _moment, nullable=False),
    sa.Column("rows_new", sa.BigInteger, nullable=False),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("problem", sa.Text, comment="null: all of it came"),
    info=TablePolicy("external", time="collected_at").info,
)
response = sa.Table(
    "response",
    metadata,
    sa.Column("key", sa.Text, primary_key=True, comment="SHA-256 of what was asked"),
    sa.Column("accepted", sa.Boolean, primary_key=True, comment="the newest good and bad one"),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("etag", sa.Text),
    sa.Column("last_modified", sa.Text),
    sa.Column("content_type", sa.Text, nullable=False),
    sa.Column("fetched_at", _moment, nullable=False),
    sa.Column("validated_at", _moment, nullable=False, comment="last found to be current"),
    sa.Column("problem", sa.Text),
    sa.Column("body", sa.LargeBinary, nullable=False),
    info=TablePolicy("external", time="fetched_at", backed_up=False).info,
)
rate_limit = sa.Table(
    "rate_limit",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("next_at", _moment, nullable=False),
    info=TablePolicy("external", time="next_at", backed_up=False).info,
)
