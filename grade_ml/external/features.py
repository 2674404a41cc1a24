"""What was known of the world on a day: one row per day and place, with values, ages, statuses.

Only observations that were available at the end of the day (today: now) count, so a day that is
computed again later comes out the same in spite of any revision since. The stored form is long
(`external.feature`), the form for models wide.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import Connection, Select
from sqlalchemy.dialects.postgresql import aggregate_order_by, distinct_on

from grade_ml.external.protocol import COURSE_PLACE, About, Place, Window
from grade_ml.external.tables import Status, feature, observation

if TYPE_CHECKING:
    import pandas as pd

NOTHING_KNOWN = "nothing was known by then"
NO_VALUE = "the provider has no value"


def refresh(
    connection: Connection, facts: Sequence[About], window: Window, place: Place, now: datetime
) -> int:
    """Compute the features of every day of `window` again; return how many there are.

    There is one feature for each series of `facts`; a series about courses has one for each course
    of which something was known by then.
    """
    columns = [column.name for column in feature.columns]
    connection.execute(sa.delete(feature).where(feature.c.day.between(window.first, window.last)))
    rows = _known(connection, facts, window, place, now)
    done = connection.execute(
        sa.insert(feature).from_select(columns, rows),
        execution_options={"preserve_rowcount": True},
    )
    return done.rowcount


def known(
    connection: Connection, facts: Sequence[About], window: Window, place: Place, now: datetime
) -> pd.DataFrame:
    """Return what `refresh` would store, without storing it, as a frame in the order of its key."""
    import pandas as pd

    rows = _known(connection, facts, window, place, now).order_by("place", "feature", "day")
    return pd.DataFrame(connection.execute(rows).mappings().all(), columns=feature.columns.keys())


def read_wide(connection: Connection, window: Window) -> pd.DataFrame:
    """Return the stored features, one row per day and place.

    Each feature has four columns: its value under its own name, and `…_age_hours`, `…_status` and
    `…_reason`. A column that a place does not have is missing in its rows.
    """
    import pandas as pd

    rows = connection.execute(
        sa.select(feature).where(feature.c.day.between(window.first, window.last))
    )
    frame = pd.DataFrame(rows.mappings().all(), columns=feature.columns.keys())
    wide = frame.pivot(
        index=["day", "place"],
        columns="feature",
        values=["value", "age_hours", "status", "reason"],
    )
    numbers = [pair for pair in wide.columns if pair[0] in ("value", "age_hours")]
    wide = wide.astype(dict.fromkeys(numbers, float))
    pairs: Any = wide.columns.to_list()
    wide.columns = [name if kind == "value" else f"{name}_{kind}" for kind, name in pairs]
    return wide.reindex(columns=sorted(wide.columns)).sort_index().reset_index()


def digests(connection: Connection, window: Window) -> dict[date, tuple[int, int, str]]:
    """Return of each day the number of features, of those with a value, and a digest of all."""
    row = sa.cast(
        sa.func.row(*(column for column in feature.columns if column.name != "day")), sa.Text
    )
    key = feature.c.place, feature.c.feature
    rows = connection.execute(
        sa.select(
            feature.c.day,
            sa.func.count(),
            sa.func.count(feature.c.value),
            sa.func.md5(sa.func.string_agg(row, aggregate_order_by(sa.literal("\n"), *key))),
        )
        .where(feature.c.day.between(window.first, window.last))
        .group_by(feature.c.day)
    )
    return {day: (count, available, digest) for day, count, available, digest in rows}


@dataclass(frozen=True)
class Coverage:
    """How many features of a source have a value: on the last day, and on how many days.

    Attributes
    ----------
    available, features
        On the last day of the window.
    days_complete, days_partial, days
        With a value of every feature, of some, and stored at all.
    """

    source: str
    available: int
    features: int
    days_complete: int
    days_partial: int
    days: int


def coverage(connection: Connection, window: Window) -> list[Coverage]:
    """Return of each source how many of its features have a value in a window."""
    has_value = feature.c.status != Status.NOT_AVAILABLE
    daily = (
        sa.select(
            feature.c.source,
            feature.c.day,
            sa.func.count().filter(has_value).label("available"),
            sa.func.count().label("features"),
        )
        .where(feature.c.day.between(window.first, window.last))
        .group_by(feature.c.source, feature.c.day)
        .subquery()
    )
    column, count = daily.c, sa.func.count()
    last = column.day == window.last
    rows = connection.execute(
        sa.select(
            column.source,
            sa.func.coalesce(sa.func.sum(column.available).filter(last), 0),
            sa.func.coalesce(sa.func.sum(column.features).filter(last), 0),
            count.filter(column.available == column.features),
            count.filter(column.available.between(1, column.features - 1)),
            count,
        )
        .group_by(column.source)
        .order_by(column.source)
    )
    return [Coverage(source, *map(int, numbers)) for source, *numbers in rows]


def _known(
    connection: Connection, facts: Iterable[About], window: Window, place: Place, now: datetime
) -> Select[Any]:
    """Return the rows of `feature`: of each series on each day the newest value that was known."""
    days = sa.values(
        sa.column("day", sa.Date),
        sa.column("moment", sa.DateTime(timezone=True)),
        name="days",
    ).data([(day, min(place.end_of(day), now)) for day in window.days()])
    series = sa.values(
        sa.column("source", sa.Text),
        sa.column("series", sa.Text),
        sa.column("place", sa.Text),
        sa.column("keep", sa.Integer),
        name="series",
    ).data(_series(connection, facts, place))

    seen = (
        sa.select(observation.c.observed_on, observation.c.value)
        .ext(distinct_on(observation.c.observed_on))
        .where(
            observation.c.source == series.c.source,
            observation.c.series == series.c.series,
            observation.c.place == series.c.place,
            observation.c.observed_on <= days.c.day,
            observation.c.available_at <= days.c.moment,
        )
        .order_by(observation.c.observed_on.desc(), observation.c.available_at.desc())
        .correlate(days, series)
        .subquery("seen")
    )
    newest = (
        sa.select(seen.c.observed_on, seen.c.value)
        .where(seen.c.value.is_not(None))
        .order_by(seen.c.observed_on.desc())
        .limit(1)
        .lateral("newest")
    )
    days_old = days.c.day - newest.c.observed_on
    is_usable = days_old <= series.c.keep
    ended = sa.func.timezone(place.timezone, sa.cast(newest.c.observed_on + 1, sa.DateTime()))
    age = sa.cast(sa.extract("epoch", days.c.moment - ended) / 3600, sa.Double)
    newest_day = sa.func.to_char(newest.c.observed_on, "YYYY-MM-DD")
    has_row = sa.exists(sa.select(sa.literal(1)).select_from(seen))
    return (
        sa.select(
            days.c.day,
            series.c.place,
            (series.c.source + "_" + series.c.series).label("feature"),
            series.c.source,
            sa.case((is_usable, newest.c.value)).label("value"),
            sa.case((newest.c.observed_on.is_not(None), sa.func.greatest(age, 0.0))).label(
                "age_hours"
            ),
            sa.case(
                (days_old == 0, Status.OBSERVED.value),
                (is_usable, Status.CARRIED_FORWARD.value),
                else_=Status.NOT_AVAILABLE.value,
            ).label("status"),
            sa.case(
                (days_old == 0, ""),
                (is_usable, "the newest value is of " + newest_day),
                (
                    newest.c.observed_on.is_not(None),
                    sa.func.format(
                        "the newest value is of %s, more than %s days ago",
                        newest_day,
                        series.c.keep,
                    ),
                ),
                (has_row, NO_VALUE),
                else_=NOTHING_KNOWN,
            ).label("reason"),
        )
        .select_from(days.join(series, sa.true()).outerjoin(newest, sa.true()))
        .where((series.c.place == place.key) | newest.c.observed_on.is_not(None) | has_row)
    )


def _series(
    connection: Connection, facts: Iterable[About], place: Place
) -> list[tuple[str, str, str, int]]:
    """Return source, series, place and days to keep of every feature."""
    courses = sa.select(observation.c.source, observation.c.place).where(
        observation.c.place.startswith(COURSE_PLACE, autoescape=True)
    )
    places = defaultdict(list)
    for source, where in connection.execute(courses.distinct().order_by(observation.c.place)):
        places[source].append(where)
    return [
        (about.name, series.name, where, series.keep)
        for about in facts
        for series in about.series
        for where in places[about.name] or [place.key]
    ]
