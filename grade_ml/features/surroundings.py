"""What was known of the world beside each snapshot: external features on the day of its cut.

`grade_ml.external` describes how they are collected day by day; which of them a
model may read is decided where models are made.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from sqlalchemy import Connection

from grade_ml.external.features import read_wide
from grade_ml.external.protocol import COURSE_PLACE, Window

PREFIX = "external_"

_KEY = ["day", "place"]
#: What `read_wide` gives beside each value; of these only the age is a number.
_AGE = "_age_hours"


def with_surroundings(snapshots: pd.DataFrame, wide: pd.DataFrame) -> pd.DataFrame:
    """Return the snapshots, in order, with one column `external_<source>_<series>` per feature.

    A row gets what was known at the end of the day of its cut: the value of its course where there
    is one for courses, else that of the campus. The columns are float32; NaN if not available.

    Parameters
    ----------
    snapshots
        As `grade_snapshots` gives them; course_id and cut_on are read.
    wide
        As `external.features.read_wide` gives it, one row per day and place.

    Raises
    ------
    ValueError
        A day has more than one row of the campus, or of a course.
    """
    values = wide.select_dtypes("number")
    values = values.loc[:, ~values.columns.str.endswith(_AGE)].astype("float32").add_prefix(PREFIX)
    day = pd.to_datetime(wide["day"]).astype("datetime64[ns]")
    place = wide["place"].astype(object)
    of_course = place.str.startswith(COURSE_PLACE).to_numpy(bool)
    on_campus = values[~of_course].set_axis(pd.Index(day[~of_course]))
    in_course = values[of_course].set_axis(
        pd.MultiIndex.from_arrays([day[of_course], place[of_course]], names=_KEY)
    )
    courses = COURSE_PLACE + snapshots["course_id"].astype(object)
    keys = pd.MultiIndex.from_arrays([snapshots["cut_on"], courses], names=_KEY)
    known = in_course.reindex(keys).set_axis(snapshots.index)
    everywhere = on_campus.reindex(snapshots["cut_on"]).set_axis(snapshots.index)
    return pd.concat([snapshots, known.where(known.notna(), everywhere)], axis=1)


def beside(
    connection: Connection, snapshots: pd.DataFrame, features: Iterable[str]
) -> pd.DataFrame:
    """Return the snapshots with the stored surroundings, if a model's `features` name any."""
    if snapshots.empty:
        return snapshots
    days = snapshots["cut_on"].dt.date
    wide = surroundings(connection, Window(days.min(), days.max()), features)
    return snapshots if wide is None else with_surroundings(snapshots, wide)


def surroundings(
    connection: Connection, window: Window, features: Iterable[str]
) -> pd.DataFrame | None:
    """Return the stored surroundings of some days for `with_surroundings`.

    None where a model's `features` name none of them.
    """
    if not any(name.startswith(PREFIX) for name in features):
        return None
    return read_wide(connection, window)


def columns_of(frame: pd.DataFrame, sources: Iterable[str]) -> list[str]:
    """Return the columns of `frame` that `with_surroundings` added for `sources`, in order."""
    prefixes = tuple(f"{PREFIX}{source}_" for source in sources)
    return [name for name in frame.columns if name.startswith(prefixes)]
