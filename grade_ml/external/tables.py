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
    """There is none; see the reason."""


observation = sa.Table(
    "observation",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column(
        "series",
        sa.Text,
        primary_key=True,
        comment="quantity that is observed, by the source's name for it",
    ),
    sa.Column("place", sa.Text, primary_key=True),
    sa.Column("observed_on", sa.Date, primary_key=True, comment="day for which the value holds"),
    sa.Column(
        "available_at",
        _moment,
        primary_key=True,
        comment="when the value was published; a revision has a later one",
    ),
    sa.Column("fetched_at", _moment, nullable=False, comment="when the value was fetched"),
    sa.Column("value", sa.Double, comment="value; null: the provider states that it has none"),
    sa.Column("unit", sa.Text, nullable=False, comment="unit of the value"),
    info=TablePolicy("external", time="observed_on").info,
)
feature = sa.Table(
    "feature",
    metadata,
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("place", sa.Text, primary_key=True),
    sa.Column(
        "feature", sa.Text, primary_key=True, comment="name of the feature: source and series"
    ),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("value", sa.Double, comment="value known by the end of the day; null: none"),
    sa.Column(
        "age_hours",
        sa.Double,
        comment="hours between the value's publication and the end of the day",
    ),
    sa.Column(
        "status",
        sa.Text,
        nullable=False,
        comment="observed, carried forward or not available",
    ),
    sa.Column(
        "reason", sa.Text, nullable=False, comment="why the value is not a new one; empty: it is"
    ),
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
    sa.Column("problem", sa.Text, comment="why something is missing; null: nothing is"),
    info=TablePolicy("external", time="collected_at", days=800, newest=("source",)).info,
)
response = sa.Table(
    "response",
    metadata,
    sa.Column("key", sa.Text, primary_key=True, comment="SHA-256 of the request"),
    sa.Column(
        "accepted",
        sa.Boolean,
        primary_key=True,
        comment="whether the response could be used; the newest of each kind is kept",
    ),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("etag", sa.Text),
    sa.Column("last_modified", sa.Text),
    sa.Column("content_type", sa.Text, nullable=False),
    sa.Column("fetched_at", _moment, nullable=False),
    sa.Column(
        "validated_at", _moment, nullable=False, comment="when the provider last confirmed it"
    ),
    sa.Column("problem", sa.Text),
    sa.Column("body", sa.LargeBinary, nullable=False, comment="bytes of the response"),
    # An answer is used again while its provider is down; after a month it is no longer useful.
    info=TablePolicy("external", time="validated_at", days=30, backed_up=False).info,
)
rate_limit = sa.Table(
    "rate_limit",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("next_at", _moment, nullable=False),
    info=TablePolicy("external", time="next_at", backed_up=False).info,
)
